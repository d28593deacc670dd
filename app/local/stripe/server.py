"""The WSGI app: authorises, routes, keeps idempotency keys, and answers as Stripe does."""

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from werkzeug.wrappers import Request, Response

from app.local.serving import drop_connection
from app.local.standin import StandIn
from app.local.stripe import accounts, money, params
from app.local.stripe.errors import (
    GOOD_LUCK,
    ApiError,
    HangUp,
    Luck,
    Target,
    masked,
    no_access,
    refusal,
)
from app.local.stripe.store import SETTLE_SECONDS, Call, Result, Store
from app.local.stripe.webhooks import Sender
from app.switchyard.clock import Clock, utcnow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OWN = "/_standin/"
MAX_KEY = 255


class Route(NamedTuple):
    """One operation and the parameters that it takes."""

    method: str
    path: str
    form: type[params.Form]
    run: Callable[[Call], dict[str, Any]]


def listing(kind: str) -> Callable[[Call], dict[str, Any]]:
    """The list of a kind; accounts are the platform's, whoever asks."""

    def run(call: Call) -> dict[str, Any]:
        return call.store.page(kind, "" if kind == "account" else call.owner, call.params)

    return run


ID = "/([^/]+)"


class StripeStandIn(StandIn):
    """Stripe's API and, under `/_standin/`, its own. `clock` gives the time in UTC.

    Without `api_key` any test key is let in. `data` is an SQLite file; without it the state ends
    with the process. A bank takes `settle_seconds`, by the clock.
    """

    form_path = "/v1/"
    routes: tuple[Route, ...] = (
        Route("GET", "/v1/accounts", params.Page, listing("account")),
        Route("GET", f"/v1/accounts{ID}", params.Form, accounts.retrieve),
        Route("GET", "/v1/balance", params.Form, money.balance),
        Route("POST", "/v1/transfers", params.Transfer, money.transfer),
        Route("GET", "/v1/transfers", params.Transfers, listing("transfer")),
        Route("GET", f"/v1/transfers{ID}", params.Form, money.retrieve),
        Route("POST", "/v1/payouts", params.Payout, money.payout),
        Route("GET", "/v1/payouts", params.Payouts, listing("payout")),
        Route("GET", f"/v1/payouts{ID}", params.Form, money.retrieve),
    )

    def __init__(
        self,
        *,
        api_key: str | None = None,
        data: Path | None = None,
        clock: Clock = utcnow,
        settle_seconds: int = SETTLE_SECONDS,
        luck: Luck = GOOD_LUCK,
    ) -> None:
        super().__init__()
        self.store = Store(data, clock=clock, settle_seconds=settle_seconds)
        self.sender = Sender(self.store, luck)
        self._api_key = api_key
        self._luck = luck
        self._in_flight: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def app(self) -> "WSGIApplication":
        return self._respond

    def close(self) -> None:
        """Stop delivering and close the data file."""
        self.sender.close()
        self.store.close()

    def admin(self, route: str, body: bytes) -> Any:
        """The answer of one of the stand-in's own routes. Raises ValueError or LookupError."""
        return accounts.answer(self.store, route, body)

    def _respond(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        request = Request(environ)
        money.settle(self.store)
        headers = {"Request-Id": f"req_{uuid.uuid4().hex[:14]}"}
        try:
            if request.path.startswith(OWN):
                route = f"{request.method} {request.path.removeprefix(OWN)}"
                body, status = json.dumps(self.admin(route, request.get_data())), 200
            else:
                result, replayed = self._answer(request)
                body, status = result.body, result.status
                headers |= {"Idempotent-Replayed": "true"} if replayed else {}
        except ApiError as error:
            body, status, headers = error.body, error.status, {**headers, **error.headers}
        except (ValueError, LookupError) as error:
            body = json.dumps({"error": str(error)})
            status = 400 if isinstance(error, ValueError) else 404
        except HangUp:
            drop_connection(environ)
            body, status = "", 500
        response = Response(body, status, headers, content_type="application/json")
        return response(environ, start)

    def _answer(self, request: Request) -> tuple[Result, bool]:
        """The result, and whether it is a stored one. Raises ApiError or HangUp."""
        api_key, owner = self._caller(request)
        route, ids = self._route(request.method, request.path)
        post = request.method == "POST"
        fields = list((request.form if post else request.args).items(multi=True))
        given = params.nested(fields)
        key = request.headers.get("Idempotency-Key", "") if post else ""
        account = owner or given.get("destination")
        target = Target(request.method, request.path, account, key)
        self._luck.enter(target)
        call = Call(self.store, api_key, owner, ids, given, target, self._luck)
        if key:
            digest = hashlib.sha256(json.dumps([request.path, sorted(fields)]).encode()).hexdigest()
            answer = self._once(route, call, digest)
        else:
            answer = self._execute(route, call, ""), False
        self._luck.leave(target)
        return answer

    def _caller(self, request: Request) -> tuple[str, str]:
        """The key and the account acted for. Raises ApiError: 401, or 403 for the account."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            raise ApiError(401, "You did not provide an API key.")
        # Without a key of its own it still refuses live ones, which have no business here.
        if key != self._api_key if self._api_key else not re.match("[sr]k_test_", key):
            raise ApiError(401, f"Invalid API Key provided: {masked(key)}")
        account = request.headers.get("Stripe-Account", "")
        if account and self.store.find("account", "", account) is None:
            raise no_access(key, account)
        return key, account

    def _route(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]:
        """The route and the ids in its path. Raises ApiError (404)."""
        for route in self.routes:
            if route.method == method and (match := re.fullmatch(route.path, path)):
                return route, match.groups()
        raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")

    def _once(self, route: Route, call: Call, fingerprint: str) -> tuple[Result, bool]:
        """The key's result, executed unless one is stored, and whether one was."""
        flight = (call.owner, call.target.key)
        if len(call.target.key) > MAX_KEY:
            raise ApiError(400, f"Idempotency keys may have at most {MAX_KEY} characters.")
        with self._lock:
            if flight in self._in_flight:
                raise refusal("idempotency_key_in_use", 409)
            self._in_flight.add(flight)
        try:
            stored = self.store.result(*flight)
            if stored is None:
                return self._execute(route, call, fingerprint), False
        finally:
            with self._lock:
                self._in_flight.discard(flight)
        if stored.fingerprint != fingerprint:
            message = "Keys for idempotent requests can only be used with the same parameters."
            raise ApiError(400, message, kind="idempotency_error")
        return stored, True

    def _execute(self, route: Route, call: Call, fingerprint: str) -> Result:
        """Execute; the effect and its result are one commit. Raises ApiError if invalid."""
        call = call._replace(params=params.checked(route.form, call.params))
        try:
            failure = self._luck.execute(call.target)
            with self.store.transaction():
                result = Result(fingerprint, 200, json.dumps(route.run(call)))
                if failure is not None:
                    result = Result(fingerprint, failure.status, failure.body)
                self.store.remember(call.owner, call.target.key, result)
        except ApiError as error:
            result = Result(fingerprint, error.status, error.body)
            with self.store.transaction():
                self.store.remember(call.owner, call.target.key, result)
        return result

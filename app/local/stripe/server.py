"""The WSGI app: authorises, routes, keeps idempotency keys, and answers as Stripe does."""

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from app.local.standin import MEMORY, StandIn
from app.local.stripe import accounts, money, params
from app.local.stripe.errors import ApiError, missing, no_access, refusal
from app.local.stripe.store import SETTLE_SECONDS, Call, Result, Store
from app.local.stripe.webhooks import Sender
from app.switchyard.clock import Clock, utcnow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

OWN = "/_standin/"
MAX_KEY = 255


Route = tuple[str, str, type[params.Form], Callable[[Call], dict[str, Any]]]
"""Of one operation: method, path, the parameters that it takes, and what it does."""


def listing(call: Call) -> dict[str, Any]:
    """A page of what the path names; accounts are the platform's, whoever asks."""
    kind = _kind(call)
    return call.store.page(kind, "" if kind == "account" else call.owner, call.params)


def retrieve(call: Call) -> dict[str, Any]:
    """The object that the path names."""
    kind = _kind(call)
    found = call.store.find(kind, "" if kind == "account" else call.owner, call.id)
    if found is None:
        raise no_access(call.id) if kind == "account" else missing(kind, call.id, "id", 404)
    return found


def _kind(call: Call) -> str:
    return call.path.split("/")[2].removesuffix("s")


ID = "/([^/]+)"


class StripeStandIn(StandIn):
    """Stripe's API and, under `/_standin/`, its own. `clock` gives the time in UTC.

    Any test key is let in. `data` is an SQLite file; without it the state ends with the process. A
    bank takes `settle_seconds`, by the clock.
    """

    form_path = "/v1/"
    routes: tuple[Route, ...] = (
        ("GET", "/v1/accounts", params.Page, listing),
        ("GET", f"/v1/accounts{ID}", params.Form, retrieve),
        ("GET", "/v1/balance", params.Form, money.balance),
        ("POST", "/v1/transfers", params.Transfer, money.transfer),
        ("GET", "/v1/transfers", params.Transfers, listing),
        ("GET", f"/v1/transfers{ID}", params.Form, retrieve),
        ("POST", "/v1/payouts", params.Payout, money.payout),
        ("GET", "/v1/payouts", params.Payouts, listing),
        ("GET", f"/v1/payouts{ID}", params.Form, retrieve),
    )

    def __init__(
        self,
        *,
        data: str = MEMORY,
        clock: Clock = utcnow,
        settle_seconds: int = SETTLE_SECONDS,
    ) -> None:
        super().__init__()
        self.store = Store(data, clock=clock, settle_seconds=settle_seconds)
        self.app = self._respond
        self.sender = Sender(self.store)
        self._in_flight: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def work(self) -> Sequence[Callable[[], None]]:
        return (lambda: self.sender.run(self._stopped),)

    def close(self) -> None:
        """Close the data file."""
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
        response = Response(body, status, headers, content_type="application/json")
        return response(environ, start)

    def _answer(self, request: Request) -> tuple[Result, bool]:
        """The result, and whether it is a stored one. Raises ApiError."""
        owner = self._owner(request)
        route, id_ = self._route(request.method, request.path)
        post = request.method == "POST"
        fields = list((request.form if post else request.args).items(multi=True))
        given = params.nested(fields)
        key = request.headers.get("Idempotency-Key", "") if post else ""
        call = Call(self.store, owner, request.path, id_, given, key)
        digest = hashlib.sha256(json.dumps([request.path, sorted(fields)]).encode()).hexdigest()
        return self._once(route, call, digest)

    def _owner(self, request: Request) -> str:
        """The account acted for. Raises ApiError: 401 for the key, or 403 for the account."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            raise ApiError(401, "You did not provide an API key.")
        if not re.match("[sr]k_test_", key):  # live ones have no business here
            raise ApiError(401, f"Invalid API Key provided: {key[:8]}***{key[12:][-4:]}")
        account = request.headers.get("Stripe-Account", "")
        if account and self.store.find("account", "", account) is None:
            raise no_access(account)
        return account

    def _route(self, method: str, path: str) -> tuple[Route, str]:
        """The route and the id in its path, if any. Raises ApiError (404)."""
        for route in self.routes:
            if route[0] == method and (match := re.fullmatch(route[1], path)):
                return route, "".join(match.groups())
        raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")

    def _once(self, route: Route, call: Call, fingerprint: str) -> tuple[Result, bool]:
        """The key's result, executed unless one is stored, and whether one was."""
        if not call.key:
            return self._execute(route, call, fingerprint), False
        if len(call.key) > MAX_KEY:
            raise ApiError(400, f"Idempotency keys may have at most {MAX_KEY} characters.")
        flight = (call.owner, call.key)
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
        *_, form, run = route
        call = call._replace(params=params.checked(form, call.params))
        try:
            with self.store.transaction():
                result = Result(fingerprint, 200, json.dumps(run(call)))
                self.store.remember(call.owner, call.key, result)
        except ApiError as error:
            result = Result(fingerprint, error.status, error.body)
            self.store.remember(call.owner, call.key, result)
        return result

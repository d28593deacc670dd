"""The WSGI app: authorises, routes, keeps idempotency keys, and fails where it is told to."""

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from werkzeug.wrappers import Request, Response

from app.local.serving import drop_connection
from app.local.stripe import admin, faults, payouts, routes
from app.local.stripe.errors import ApiError, masked, no_access, refusal
from app.local.stripe.forms import nested
from app.local.stripe.limits import Limiter
from app.local.stripe.params import checked
from app.local.stripe.store import Call, Result, Store
from app.local.stripe.webhooks import Sender
from app.switchyard.clock import Clock, utcnow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DOOR, WORK, EXIT, BANK = (
    frozenset(get_args(kinds)) for kinds in (faults.Door, faults.Work, faults.Exit, faults.Bank)
)


class _HangUpError(Exception):
    """The connection is to be closed without an answer."""


class StripeStandIn:
    """Stripe's API and, under `/_standin/`, its own. `clock` gives the time in UTC.

    Without `api_key` any test key is let in. `data` is an SQLite file; without it the state ends
    with the process. At most `rate_limit` calls are let in within any second of `timer`; a bank
    takes `settle_seconds`, by default two days.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        data: Path | None = None,
        seed: int = 0,
        clock: Clock = utcnow,
        settle_seconds: int | None = None,
        rate_limit: int | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_key = api_key
        self._store = Store(data, seed=seed, clock=clock, settle_seconds=settle_seconds)
        self._faults = faults.Faults(seed)
        self._limiter = Limiter(rate_limit, timer)
        self.sender = Sender(self._store, self._faults)
        self._admin = admin.Admin(self._store, self._faults, self._limiter, self.sender)
        self._in_flight: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Lets go of held requests, stops delivering and closes the data file."""
        self._faults.clear()
        self.sender.close()
        self._store.close()

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        request = Request(environ)
        payouts.settle(self._store)
        if request.path.startswith("/_standin/"):
            return self._admin.answer(request)(environ, start)
        headers = {"Request-Id": f"req_{uuid.uuid4().hex[:14]}"}
        for name in ("Stripe-Version", "Idempotency-Key", "Stripe-Account"):
            if name in request.headers:
                headers[name] = request.headers[name]
        try:
            body, status = self._answer(request, headers)
        except ApiError as error:
            body, status = json.dumps(error.body), error.status
            headers.update(error.headers)
        except _HangUpError:
            drop_connection(environ)
            body, status = "", 500
        response = Response(body, status, headers, content_type="application/json")
        return response(environ, start)

    def _answer(self, request: Request, headers: dict[str, str]) -> tuple[str, int]:
        api_key, owner = self._caller(request)
        route, ids = routes.find(request.method, request.path)
        self._limiter.admit(f"{route.method} {route.path}")
        post = request.method == "POST"
        fields = list((request.form if post else request.args).items(multi=True))
        call = Call(self._store, api_key, owner, ids, nested(fields))
        key = request.headers.get("Idempotency-Key", "") if post else ""
        account = owner or call.params.get("destination")
        target = faults.Target(request.method, request.path, account, key)
        if (rule := self._faults.draw(DOOR, target)) is not None:
            raise _HangUpError if rule.kind == "drop_before" else rule.error()
        print_ = hashlib.sha256(json.dumps([request.path, sorted(fields)]).encode()).hexdigest()
        blank = Result(print_, headers["Request-Id"], 0, "")
        result = self._once(route, call, target, blank)
        if result.request_id != blank.request_id:
            headers["Idempotent-Replayed"] = "true"
            headers["Original-Request"] = result.request_id
        if (rule := self._faults.draw(EXIT, target)) is not None:
            self._faults.hold(rule.seconds)
            raise _HangUpError
        return result.body, result.status

    def _caller(self, request: Request) -> tuple[str, str]:
        """The key and the account acted for. Raises ApiError: 401, or 403 for the account."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            message = "You did not provide an API key. You need to provide your API key in the "
            raise ApiError(401, message + "Authorization header, using Bearer auth.")
        # Without a key of its own it still refuses live ones, which have no business here.
        if key != self._api_key if self._api_key else not re.match("[sr]k_test_", key):
            raise ApiError(401, f"Invalid API Key provided: {masked(key)}")
        account = request.headers.get("Stripe-Account", "")
        if account and self._store.find("account", "", account) is None:
            raise no_access(key, account)
        return key, account

    def _once(
        self, route: routes.Route, call: Call, target: faults.Target, blank: Result
    ) -> Result:
        """The request's result, executed unless its key has one stored."""
        if not target.key:
            return self._executed(route, call, target, blank)
        if len(target.key) > 255:
            raise ApiError(400, "Idempotency keys may have at most 255 characters.")
        flight = (call.owner, target.key)
        with self._lock:
            if flight in self._in_flight:
                raise refusal("idempotency_key_in_use", 409)
            self._in_flight.add(flight)
        try:
            stored = self._store.result(*flight)
            if stored is None:
                return self._executed(route, call, target, blank)
        finally:
            with self._lock:
                self._in_flight.discard(flight)
        if stored.fingerprint != blank.fingerprint:
            message = "Keys for idempotent requests can only be used with the same parameters they "
            message += f"were first used with. Try using a key other than '{target.key}' if you "
            message += "meant to execute a different request."
            raise ApiError(400, message, kind="idempotency_error")
        return stored

    def _executed(
        self, route: routes.Route, call: Call, target: faults.Target, blank: Result
    ) -> Result:
        """Executes; the effect and its result are one commit. Raises ApiError if invalid."""
        call = call._replace(params=checked(route.params, call.params))
        if route.run is payouts.create:
            call = call._replace(fate=self._faults.draw(BANK, target))
        rule = self._faults.draw(WORK, target)
        if rule is not None and rule.kind == "slow":
            self._faults.hold(rule.seconds)
            rule = None
        try:
            with self._store.transaction():
                if rule is not None and rule.kind != "500_after":
                    raise rule.error()
                result = blank._replace(status=200, body=json.dumps(route.run(call)))
                if rule is not None:
                    result = _told(blank, rule.error())
                self._store.remember(call.owner, target.key, result)
        except ApiError as error:
            result = _told(blank, error)
            with self._store.transaction():
                self._store.remember(call.owner, target.key, result)
        return result


def _told(blank: Result, error: ApiError) -> Result:
    return blank._replace(status=error.status, body=json.dumps(error.body))

"""The stand-ins as tests use them: with bad days on demand, and a clock that can be set ahead."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Response

from app.local.inngest import standin as inngest
from app.local.qstash import server as qstash
from app.local.standin import StandIn
from app.local.stripe.money import settle
from app.switchyard.clock import Clock, utcnow
from tests.support import stripe_dashboard as dashboard
from tests.support.inngest_keys import ProductionKeys
from tests.support.serving import drop_connection
from tests.support.stripe_faults import Faulty
from tests.support.stripe_stand import Stand

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Probability = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """How likely each fault is: the first three per request, the others per message."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    refuse: Probability = 0.0
    """Answer 503 and accept nothing."""
    unknown_outcome: Probability = 0.0
    """Accept what was sent, then answer 500."""
    drop: Probability = 0.0
    """Accept it, then close the connection without an answer."""
    swallow: Probability = 0.0
    """Answer well and never act on it."""
    double: Probability = 0.0
    """Act on it twice."""
    late: float = Field(default=0.0, ge=0)
    """Act on it up to so many seconds late, so that messages overtake each other."""
    spread: float = Field(default=1.0, ge=0)
    """Most seconds between the two of a doubled message."""


class BadDays(StandIn):
    """A stand-in's days, with faults. For all threads."""

    def __init__(self, *args: Any, seed: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.faults = Faults()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def fault(self, **faults: float) -> None:
        """Set the faults, all others to nought."""
        self.faults = Faults.model_validate(faults)

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith(("/v2/", "/e/")):
            return super().__call__(environ, start)
        if self._strikes("refuse"):
            return _error(503, "refused on demand")(environ, start)
        answer = Response.from_app(super().__call__, environ, buffered=True)
        if environ["REQUEST_METHOD"] == "POST" and answer.status_code < 300:
            if self._strikes("drop"):
                drop_connection(environ)
            if self._strikes("unknown_outcome"):
                answer = _error(500, "failed on demand, after it was accepted")
        return answer(environ, start)

    def times(self, at: float) -> list[float]:
        if self._strikes("swallow"):
            return []
        first = at + self._between(0, self.faults.late)
        again = first + self._between(0, self.faults.spread)
        return [first, again] if self._strikes("double") else [first]

    def _strikes(self, fault: str) -> bool:
        return self._between(0, 1) < float(getattr(self.faults, fault))

    def _between(self, low: float, high: float) -> float:
        with self._lock:
            return self._random.uniform(low, high)


class InngestStandIn(BadDays, inngest.InngestStandIn):
    """With faults, and with both keys in production mode."""

    def __init__(
        self,
        apps: Iterable[str] = (),
        event_key: str | None = None,
        signing_key: str | None = None,
        **options: Any,
    ) -> None:
        if event_key is not None and signing_key is not None:
            options["keys"] = ProductionKeys(event_key, signing_key)
        super().__init__(apps, **options)

    def runs(self) -> list[dict[str, Any]]:
        """Every run kept, oldest first, with what the real server does not say of it."""
        with self.engine.lock:
            return [
                run.as_rest()
                | {"function": run.function.id, "event": run.event.body, "calls": run.calls}
                | {"steps": len(run.steps)}
                for run in self.engine.runs.values()
            ]


class QStashStandIn(BadDays, qstash.QStashStandIn):
    """With faults."""


class StripeStandIn(Faulty, Stand):
    """With Stripe's own client, a dashboard, faults, and a clock that can be set ahead."""

    routes = (*Faulty.routes, *dashboard.ROUTES)

    def __init__(self, *, clock: Clock = utcnow, **options: Any) -> None:
        self.ahead = timedelta(0)
        super().__init__(clock=lambda: clock() + self.ahead, **options)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every owner's objects of a kind, oldest first."""
        settle(self.store)
        rows = self.store._rows("SELECT body FROM objects WHERE kind = ? ORDER BY seq", kind)
        return [json.loads(body) for (body,) in rows]

    def transfers(self) -> list[dict[str, Any]]:
        return self.all("transfer")

    def account(self, **state: Any) -> str:
        """Create or overwrite an account; its id."""
        (id_,) = self.set_accounts(state)
        return id_

    def set_accounts(self, *states: dict[str, Any]) -> list[str]:
        """Create or overwrite accounts; their ids."""
        body = json.dumps({"accounts": states}).encode()
        return list(self.admin("POST accounts", body)["ids"])

    def top_up(self, amount: int, currency: str = "usd", **more: Any) -> None:
        """Minor units; `more` is of whom, and in how many seconds they are available."""
        body = json.dumps({"amount": amount, "currency": currency, **more}).encode()
        self.admin("POST topup", body)


def _error(status: int, why: str) -> Response:
    return Response(json.dumps({"error": why}), status, content_type="application/json")

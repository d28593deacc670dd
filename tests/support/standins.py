"""The stand-ins as tests use them: with bad days on demand, and a clock that can be set ahead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from app.local.inngest import standin as inngest
from app.local.qstash import server as qstash
from app.local.stripe.accounts import Body
from app.switchyard.clock import Clock, utcnow
from tests.support import stripe_dashboard as dashboard
from tests.support.bad_days import BadDays
from tests.support.inngest_keys import ProductionKeys
from tests.support.stripe_faults import Faulty, Rule

MOVED = {
    "transfers": "transfer",
    "reversals": "transfer_reversal",
    "payouts": "payout",
    "topups": "topup",
}
"""Every kind of movement at Stripe, by its name in the audit."""


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


class _NewFaults(Body):
    rules: list[Rule]
    seed: int | None = None


class _Advance(Body):
    advance_seconds: int = Field(ge=0)


class _Webhook(Body):
    url: str
    secret: str = Field(min_length=1)
    events: list[str] = Field(default=["*"], min_length=1)


class StripeStandIn(Faulty):
    """With a dashboard, and under `/_standin/` faults, an audit and a clock."""

    routes = (*Faulty.routes, *dashboard.ROUTES)

    def __init__(self, *, clock: Clock = utcnow, **options: Any) -> None:
        self._ahead = timedelta(0)
        self._clock = clock
        super().__init__(clock=self._now, **options)

    def _now(self) -> datetime:
        return self._clock() + self._ahead

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every owner's objects of a kind, oldest first."""
        rows = self.store._rows("SELECT body FROM objects WHERE kind = ? ORDER BY seq", kind)
        return [json.loads(body) for (body,) in rows]

    def close(self) -> None:
        self.forgive()
        super().close()

    def admin(self, route: str, body: bytes) -> Any:
        store = self.store
        match route:
            case "GET transfers":
                # What was topped up is what the balances and the payouts hold.
                moved = {name: self.all(kind) for name, kind in MOVED.items()}
                owners = ["", *(one["id"] for one in self.all("account"))]
                balances = {owner: store.balance(owner) for owner in owners}
                return {**moved, "balances": {o: held for o, held in balances.items() if held}}
            case "POST clock":
                seconds = _Advance.model_validate_json(body).advance_seconds
                self._ahead += timedelta(seconds=seconds)
                return {"now": store.now()}
            case "POST webhook":
                self.sender.aim(**_Webhook.model_validate_json(body).model_dump())
                return {"undelivered": len(store.undelivered(0))}
            case "POST faults":
                given = _NewFaults.model_validate_json(body)
                self.strike(given.rules, given.seed)
            case "DELETE faults":
                self.forgive()
            case "GET faults":
                pass
            case _:
                return super().admin(route, body)
        return {"rules": [rule.model_dump() for rule in self.rules]}

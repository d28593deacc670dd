"""The stand-ins as tests use them: with bad days on demand, and a clock that can be set ahead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from app.local.inngest import standin as inngest
from app.local.qstash import server as qstash
from app.local.stripe.money import settle
from app.switchyard.clock import Clock, utcnow
from tests.support import stripe_dashboard as dashboard
from tests.support.bad_days import BadDays
from tests.support.inngest_keys import ProductionKeys
from tests.support.stripe_faults import Faulty
from tests.support.stripe_stand import Stand


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

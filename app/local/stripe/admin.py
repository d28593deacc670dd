"""The stand-in's own routes: faults, limits, money, accounts, the clock, the bank, the webhook."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Request, Response

from app.local.stripe.accounts import AccountState, place
from app.local.stripe.faults import Faults, Rule
from app.local.stripe.limits import Limiter
from app.local.stripe.store import Store
from app.local.stripe.webhooks import Sender


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _NewFaults(_Body):
    rules: list[Rule]
    seed: int | None = None


class _Rate(_Body):
    per_second: int | None = Field(default=None, ge=1)
    per_endpoint: int | None = Field(default=None, ge=1)


class _TopUp(_Body):
    amount: int = Field(gt=0)
    currency: str = "usd"
    account: str = ""
    pending_seconds: int = Field(default=0, ge=0)
    """How long until it is available, by the stand-in's clock; a charge takes days."""


class _NewAccounts(_Body):
    accounts: list[AccountState] = []
    count: int = Field(default=0, ge=0)


class _Advance(_Body):
    advance_seconds: int = Field(ge=0)


class _Bank(_Body):
    settle_seconds: int = Field(ge=0)


class _Webhook(_Body):
    url: str
    secret: str = Field(min_length=1)
    events: list[str] = Field(default=["*"], min_length=1)


class Admin:
    """Answers `/_standin/…`."""

    def __init__(self, store: Store, faults: Faults, limiter: Limiter, sender: Sender) -> None:
        self._store = store
        self._faults = faults
        self._limiter = limiter
        self._sender = sender

    def answer(self, request: Request) -> Response:
        """JSON; 400 for a body that does not fit, 404 for another route."""
        route = f"{request.method} {request.path.removeprefix('/_standin/')}"
        try:
            result, status = self._done(route, request.get_data()), 200
        except ValueError as failure:
            result, status = {"error": str(failure)}, 400
        except LookupError:
            result, status = {"error": "no such route"}, 404
        return Response(json.dumps(result), status, content_type="application/json")

    def _done(self, route: str, body: bytes) -> Any:
        store = self._store
        match route:
            case "GET transfers":
                return self._audit()
            case "POST topup":
                return self._top_up(_TopUp.model_validate_json(body))
            case "POST accounts":
                new = _NewAccounts.model_validate_json(body)
                wanted = [*new.accounts, *(AccountState() for _ in range(new.count))]
                with store.transaction():
                    return {"ids": [place(store, state)["id"] for state in wanted]}
            case "POST clock":
                store.advance(_Advance.model_validate_json(body).advance_seconds)
                return {"now": store.now()}
            case "GET clock":
                return {"now": store.now()}
            case "POST bank":
                with store.transaction():
                    store.settle_seconds = _Bank.model_validate_json(body).settle_seconds
                return {"settle_seconds": store.settle_seconds}
            case "POST webhook":
                self._sender.aim(**_Webhook.model_validate_json(body).model_dump())
                return {"undelivered": len(store.undelivered(0))}
            case "POST rate":
                self._limiter.start(**_Rate.model_validate_json(body).model_dump())
                return self._limiter.told()
            case "GET rate":
                return self._limiter.told()
            case "POST faults":
                given = _NewFaults.model_validate_json(body)
                self._faults.add(given.rules, given.seed)
            case "DELETE faults":
                self._faults.clear()
            case "GET faults":
                pass
            case _:
                raise LookupError(route)
        rules = [rule.model_dump() for rule in self._faults.rules]
        return {"seed": self._faults.seed, "rules": rules}

    def _top_up(self, given: _TopUp) -> dict[str, Any]:
        store = self._store
        with store.transaction():
            if given.pending_seconds:
                due = store.now() + given.pending_seconds
                store.expect(given.account, given.currency, given.amount, due)
            else:
                store.move(given.account, given.currency, given.amount)
            store.put("", {"id": store.new_id("tu"), "object": "topup", **given.model_dump()})
        return {"available": store.balance(given.account)}

    def _audit(self) -> dict[str, Any]:
        """Everything that moved. What was topped up is what the balances and the payouts hold."""
        kinds = ("transfer", "transfer_reversal", "payout", "topup")
        names = ("transfers", "reversals", "payouts", "topups")
        moved = {n: self._store.all(kind) for n, kind in zip(names, kinds, strict=True)}
        return {**moved, "balances": self._store.balances()}

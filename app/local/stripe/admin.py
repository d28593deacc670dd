"""The stand-in's own routes: faults, money, accounts, the clock, the bank's pace, the webhook."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Request, Response

from app.local.stripe.accounts import AccountState, place
from app.local.stripe.faults import Faults, Rule
from app.local.stripe.store import Store
from app.local.stripe.webhooks import Sender


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _NewFaults(_Body):
    rules: list[Rule]
    seed: int | None = None


class _TopUp(_Body):
    amount: int = Field(gt=0)
    currency: str = "usd"
    account: str = ""


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


def answer(request: Request, store: Store, faults: Faults, sender: Sender) -> Response:
    """Answers `/_standin/…`: 400 for a body that does not fit, 404 for another route."""
    action = f"{request.method} {request.path.removeprefix('/_standin/')}"
    try:
        result, status = _done(action, request.get_data(), store, faults, sender), 200
    except ValueError as failure:
        result, status = {"error": str(failure)}, 400
    except LookupError:
        result, status = {"error": "no such route"}, 404
    return Response(json.dumps(result), status, content_type="application/json")


def _done(action: str, body: bytes, store: Store, faults: Faults, sender: Sender) -> Any:
    match action:
        case "GET transfers":
            return _audit(store)
        case "POST topup":
            topup = _TopUp.model_validate_json(body)
            with store.transaction():
                store.move(topup.account, topup.currency, topup.amount)
                id_ = store.new_id("tu")
                store.put("", {"id": id_, "object": "topup", **topup.model_dump()})
            return {"available": store.balance(topup.account)}
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
            sender.aim(**_Webhook.model_validate_json(body).model_dump())
            return {"undelivered": len(store.undelivered(0))}
        case "POST faults":
            given = _NewFaults.model_validate_json(body)
            faults.add(given.rules, given.seed)
        case "DELETE faults":
            faults.clear()
        case "GET faults":
            pass
        case _:
            raise LookupError(action)
    return {"seed": faults.seed, "rules": [rule.model_dump() for rule in faults.rules]}


def _audit(store: Store) -> dict[str, Any]:
    """Everything that moved. What was topped up is what the balances and the payouts hold."""
    return {
        "transfers": store.all("transfer"),
        "reversals": store.all("transfer_reversal"),
        "payouts": store.all("payout"),
        "topups": store.all("topup"),
        "balances": store.balances(),
    }

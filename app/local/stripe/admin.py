"""The stand-in's own routes: what happens at a real Stripe without this product's doing."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.local.stripe.accounts import AccountState, place
from app.local.stripe.store import Store


class Body(BaseModel):
    """What a route is sent."""

    model_config = ConfigDict(extra="forbid")


class _TopUp(Body):
    amount: int = Field(gt=0)
    currency: str = "usd"
    account: str = ""
    pending_seconds: int = Field(default=0, ge=0)
    """How long until it is available, by the stand-in's clock; a charge takes days."""


class _Accounts(Body):
    accounts: list[AccountState]


def answer(store: Store, route: str, body: bytes) -> Any:
    """Do what was sent to `/_standin/` and a route. Raises ValueError or LookupError."""
    if route == "POST accounts":
        wanted = _Accounts.model_validate_json(body).accounts
        with store.transaction():
            return {"ids": [place(store, state) for state in wanted]}
    if route == "POST topup":
        given = _TopUp.model_validate_json(body)
        due = store.now() + given.pending_seconds if given.pending_seconds else 0
        with store.transaction():
            store.move(given.account, given.currency, given.amount, due)
            store.put("", {"id": store.new_id("tu"), "object": "topup", **given.model_dump()})
        return {"available": store.balance(given.account)}
    raise LookupError("no such route")

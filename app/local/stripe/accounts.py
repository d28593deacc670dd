"""Connected accounts, and the stand-in's own routes: what happens without this product's doing."""

from typing import Any, Literal

from pydantic import Field

from app.local.shapes import Shape
from app.local.stripe.store import Store


class AccountState(Shape):
    """What the admin route sets an account to; an id not known yet makes a new account."""

    id: str | None = None
    country: str = "US"
    default_currency: str = "usd"
    transfers: Literal["active", "inactive", "pending"] | None = "active"
    payouts_enabled: bool = True
    charges_enabled: bool = True
    disabled_reason: str | None = None
    payout_interval: Literal["manual", "daily", "weekly", "monthly"] = "manual"
    instant_payouts: bool = True
    """Whether its bank or card takes instant ones."""


class _Accounts(Shape):
    accounts: list[AccountState]


class _TopUp(Shape):
    amount: int = Field(gt=0)
    currency: str = "usd"
    account: str = ""
    pending_seconds: int = Field(default=0, ge=0)
    """How long until it is available, by the stand-in's clock; a charge takes days."""


def answer(store: Store, route: str, body: bytes) -> Any:
    """Do what was sent to `/_standin/` and a route. Raises ValueError or LookupError."""
    if route == "POST accounts":
        wanted = _Accounts.model_validate_json(body).accounts
        with store.transaction():
            return {"ids": [_place(store, state) for state in wanted]}
    if route == "POST topup":
        given = _TopUp.model_validate_json(body)
        due = store.now() + given.pending_seconds if given.pending_seconds else 0
        with store.transaction():
            store.move(given.account, given.currency, given.amount, due)
            store.put("", {"id": store.new_id("tu"), "object": "topup", **given.model_dump()})
        return {"available": store.balance(given.account)}
    raise LookupError("no such route")


def _place(store: Store, state: AccountState) -> str:
    """Create or overwrite an account, whose change emits `account.updated`. Returns its id."""
    id_ = state.id or store.new_id("acct")
    known = store.find("account", "", id_)
    methods = ["standard", *(["instant"] if state.instant_payouts else [])]
    bank = {"object": "bank_account", "available_payout_methods": methods}
    same = {"country", "default_currency", "payouts_enabled", "charges_enabled"}
    account = state.model_dump(include=same) | {
        "id": id_,
        "object": "account",
        "capabilities": {"transfers": state.transfers} if state.transfers else {},
        "created": known["created"] if known else store.now(),
        "external_accounts": {"object": "list", "has_more": False, "data": [bank]},
        "requirements": {"disabled_reason": state.disabled_reason},
        "settings": {"payouts": {"schedule": {"interval": state.payout_interval}}},
    }
    before = {name: old for name, old in (known or {}).items() if account[name] != old}
    if before:
        store.put("", account, "account.updated", previous_attributes=before)
    else:
        store.put("", account)
    return id_

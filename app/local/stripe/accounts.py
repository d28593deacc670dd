"""Connected accounts, which only the admin route makes and changes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.local.stripe.errors import no_access
from app.local.stripe.store import Call, Store


class AccountState(BaseModel):
    """What the admin route sets an account to; an id not known yet makes a new account."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    country: str = "US"
    default_currency: str = "usd"
    email: str | None = None
    transfers: Literal["active", "inactive", "pending"] | None = "active"
    payouts_enabled: bool = True
    charges_enabled: bool = True
    disabled_reason: str | None = None
    payout_interval: Literal["manual", "daily", "weekly", "monthly"] = "manual"
    instant_payouts: bool = True
    """Whether its bank or card takes instant ones."""
    metadata: dict[str, str] = {}


SHOWN_ELSEWHERE = {"transfers", "disabled_reason", "payout_interval", "instant_payouts"}


def place(store: Store, state: AccountState) -> str:
    """Create or overwrite an account; its id. The caller holds the transaction.

    A change of one that was there emits `account.updated`.
    """
    id_ = state.id or store.new_id("acct")
    known = store.find("account", "", id_)
    methods = ["standard", *(["instant"] if state.instant_payouts else [])]
    bank = {"object": "bank_account", "available_payout_methods": methods}
    account = state.model_dump(exclude=SHOWN_ELSEWHERE) | {
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
        store.emit("account.updated", account, account=id_, before=before)
    store.put("", account)
    return id_


def retrieve(call: Call) -> dict[str, Any]:
    """The account that the path names."""
    account = call.store.find("account", "", call.ids[0])
    if account is None:
        raise no_access(call.api_key, call.ids[0])
    return account

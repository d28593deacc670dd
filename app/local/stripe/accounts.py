"""Connected accounts, which only the admin route makes and changes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.local.stripe.errors import no_access
from app.local.stripe.events import emit
from app.local.stripe.store import Call, Store


class AccountState(BaseModel):
    """What the admin route sets an account to; an id not known yet makes a new account."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    type: str = "express"
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


def place(store: Store, state: AccountState) -> dict[str, Any]:
    """Creates or overwrites an account; the caller holds the transaction.

    A change of one that was there is told as `account.updated`.
    """
    fields = state.model_dump(exclude=SHOWN_ELSEWHERE)
    id_ = state.id or store.new_id("acct")
    known = store.find("account", "", id_)
    bank = {
        "id": f"ba_{id_.removeprefix('acct_')}",
        "object": "bank_account",
        "available_payout_methods": ["standard", *(["instant"] if state.instant_payouts else [])],
        "currency": state.default_currency,
    }
    account = fields | {
        "id": id_,
        "object": "account",
        "capabilities": {"transfers": state.transfers} if state.transfers else {},
        "created": known["created"] if known else store.now(),
        "details_submitted": state.payouts_enabled,
        "external_accounts": {
            "object": "list",
            "url": f"/v1/accounts/{id_}/external_accounts",
            "has_more": False,
            "data": [bank],
        },
        "requirements": {
            "disabled_reason": state.disabled_reason,
            **{name: [] for name in ("currently_due", "errors", "eventually_due", "past_due")},
        },
        "settings": {"payouts": {"schedule": {"delay_days": 2, "interval": state.payout_interval}}},
    }
    before = {name: old for name, old in (known or {}).items() if account[name] != old}
    if before:
        emit(store, "account.updated", account, account=id_, before=before)
    return store.put("", account)


def retrieve(call: Call) -> dict[str, Any]:
    account = call.store.find("account", "", call.ids[0])
    if account is None:
        raise no_access(call.api_key, call.ids[0])
    return account

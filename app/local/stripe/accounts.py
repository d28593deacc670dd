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
    metadata: dict[str, str] = {}


def place(store: Store, state: AccountState) -> dict[str, Any]:
    """Creates or overwrites an account; the caller holds the transaction.

    A change of one that was there is told as `account.updated`.
    """
    fields = state.model_dump(exclude={"transfers", "disabled_reason"})
    id_ = state.id or store.new_id("acct")
    known = store.find("account", "", id_)
    account = fields | {
        "id": id_,
        "object": "account",
        "capabilities": {"transfers": state.transfers} if state.transfers else {},
        "created": known["created"] if known else store.now(),
        "details_submitted": state.payouts_enabled,
        "requirements": {
            "disabled_reason": state.disabled_reason,
            **{name: [] for name in ("currently_due", "errors", "eventually_due", "past_due")},
        },
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

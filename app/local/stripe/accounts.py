"""Connected accounts: a new one cannot be paid until the admin route has it onboarded."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.local.stripe.errors import no_access
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
    """Creates or overwrites an account; the caller holds the transaction."""
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
    return store.put("", account)


def create(call: Call) -> dict[str, Any]:
    names = ("type", "country", "default_currency", "email")
    given = {name: call.params[name] for name in names if name in call.params}
    requested = call.params.get("capabilities", {}).get("transfers", {}).get("requested")
    state = AccountState(
        **given,
        transfers="inactive" if requested else None,
        payouts_enabled=False,
        charges_enabled=False,
        disabled_reason="requirements.past_due",
        metadata=call.params.get("metadata") or {},
    )
    return place(call.store, state)


def retrieve(call: Call) -> dict[str, Any]:
    account = call.store.find("account", "", call.ids[0])
    if account is None:
        raise no_access(call.api_key, call.ids[0])
    return account


def update(call: Call) -> dict[str, Any]:
    """Sets the fields kept here; a metadata key is unset by an empty value, all of them by ''."""
    account = retrieve(call)
    metadata = call.params.get("metadata", {})
    merged = {**account["metadata"], **metadata} if metadata != "" else {}
    account["metadata"] = {name: value for name, value in merged.items() if value != ""}
    for name in ("email", "default_currency"):
        account[name] = call.params.get(name, account[name])
    if call.params.get("capabilities", {}).get("transfers", {}).get("requested"):
        account["capabilities"].setdefault("transfers", "inactive")
    return call.store.put("", account)

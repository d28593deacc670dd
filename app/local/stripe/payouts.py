"""Bank payouts: pending → in_transit → paid or failed, and even paid → failed, as time goes by."""

from typing import Any

from app.local.stripe.errors import refusal
from app.local.stripe.money import withdrawn
from app.local.stripe.store import Call, Store

INSTANT_SECONDS = 30 * 60


def create(call: Call) -> dict[str, Any]:
    """Take money from the owner's balance to its bank, which settles later.

    Refused with payouts_not_allowed, instant_payouts_unsupported and balance_insufficient.
    """
    store, method = call.store, call.params["method"]
    account = store.find("account", "", call.owner)
    if account is not None:
        if not account["payouts_enabled"]:
            raise refusal("payouts_not_allowed")
        (bank,) = account["external_accounts"]["data"]
        if method not in bank["available_payout_methods"]:
            raise refusal("instant_payouts_unsupported")
    seconds = store.settle_seconds
    if method == "instant":
        seconds = min(seconds, INSTANT_SECONDS)
    base = withdrawn(call, "payout", "po")
    made = base | {
        "arrival_date": base["created"] + seconds,
        "failure_code": None,
        "method": method,
        "status": "pending",
    }
    ends, code = call.luck.ends(call.target)
    waits = (seconds // 2, seconds, 2 * seconds)
    for wait, status in zip(waits, ["in_transit", *ends], strict=False):
        due = base["created"] + wait
        store.plan(due, call.owner, made["id"], status, code if status == "failed" else None)
    store.emit("payout.created", made, account=call.owner)
    return store.put(call.owner, made)


def settle(store: Store) -> None:
    """Advance the payouts whose time has come by the stand-in's clock."""
    if not store.is_due():
        return
    with store.transaction():
        for due, _, owner, id_, status, code in store.take_due():
            payout = store.find("payout", owner, id_)
            if payout is not None and payout["status"] != "canceled":
                payout["failure_code"] = code
                became(store, owner, payout, status, due)


def became(
    store: Store, owner: str, payout: dict[str, Any], status: str, at: int
) -> dict[str, Any]:
    """Give a payout its next status; the money of one that failed comes back."""
    payout["status"] = status
    if status in ("failed", "canceled"):
        store.move(owner, payout["currency"], payout["amount"])
    kind = "updated" if status == "in_transit" else status
    store.emit(f"payout.{kind}", payout, account=owner, at=at)
    return store.put(owner, payout)

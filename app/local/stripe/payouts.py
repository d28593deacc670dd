"""Bank payouts: pending → in_transit → paid or failed, and even paid → failed, as time goes by."""

from typing import Any

from app.local.stripe.errors import ApiError, refusal
from app.local.stripe.events import emit
from app.local.stripe.money import moved, retrieve
from app.local.stripe.store import Call, Store

INSTANT_SECONDS = 30 * 60


def create(call: Call) -> dict[str, Any]:
    """Takes money from the owner's balance to its bank, which settles later, or fails as told.

    Refused with payouts_not_allowed, instant_payouts_unsupported and balance_insufficient.
    """
    store = call.store
    method = call.params.get("method", "standard")
    account = store.find("account", "", call.owner)
    if account is not None and not account["payouts_enabled"]:
        raise refusal("payouts_not_allowed")
    if account is not None and method == "instant":
        (bank,) = account["external_accounts"]["data"]
        if method not in bank["available_payout_methods"]:
            raise refusal("instant_payouts_unsupported")
    seconds = store.settle_seconds
    if method == "instant":
        seconds = min(seconds, INSTANT_SECONDS)
    base = moved(call, "payout", "po")
    made = base | {
        "arrival_date": base["created"] + seconds,
        "automatic": False,
        "destination": call.params.get("destination") or store.new_id("ba"),
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "method": method,
        "statement_descriptor": call.params.get("statement_descriptor"),
        "status": "pending",
        "type": "bank_account",
    }
    ends = {"bank_fails": ["failed"], "bank_turns": ["paid", "failed"]}
    stages = ["in_transit", *(ends[call.fate.kind] if call.fate else ["paid"])]
    waits = (seconds // 2, seconds, 2 * seconds)
    for wait, status in zip(waits, stages, strict=False):
        code = (call.fate and call.fate.code) or "account_closed"
        due = base["created"] + wait
        store.plan(due, call.owner, made["id"], status, code if status == "failed" else None)
    emit(store, "payout.created", made, account=call.owner)
    return store.put(call.owner, made)


def cancel(call: Call) -> dict[str, Any]:
    """Gives the money back, as long as the bank has not got it."""
    payout = retrieve(call)
    if payout["status"] != "pending":
        message = f"Payouts can only be canceled while pending; this one is {payout['status']}."
        raise ApiError(400, message)
    return _became(call.store, call.owner, payout, "canceled", call.store.now())


def settle(store: Store) -> None:
    """Moves on the payouts whose time has come by the stand-in's clock."""
    if not store.is_due():
        return
    with store.transaction():
        for due, _, owner, id_, status, code in store.take_due():
            payout = store.find("payout", owner, id_)
            if payout is not None and payout["status"] != "canceled":
                payout["failure_code"] = code
                payout["failure_message"] = code and f"The bank refused the payout: {code}."
                _became(store, owner, payout, status, due)


def _became(
    store: Store, owner: str, payout: dict[str, Any], status: str, at: int
) -> dict[str, Any]:
    payout["status"] = status
    if status in ("failed", "canceled"):
        payout["failure_balance_transaction"] = store.new_id("txn")
        store.move(owner, payout["currency"], payout["amount"])
    kind = "updated" if status == "in_transit" else status
    emit(store, f"payout.{kind}", payout, account=owner, at=at)
    return store.put(owner, payout)

"""Balances, transfers and bank payouts; every effect is checked before anything moves.

A payout goes pending → in_transit → paid or failed, and even paid → failed, as time goes by.
"""

from typing import Any

from app.local.stripe.errors import missing, refusal
from app.local.stripe.store import Call, Store

INSTANT_SECONDS = 30 * 60


def balance(call: Call) -> dict[str, Any]:
    """What the owner has, available and pending."""
    held = call.store.balance(call.owner)
    pending = call.store.balance(call.owner, pending=True)
    currencies = sorted(held.keys() | pending.keys()) or ["usd"]
    parts = {
        name: [{"amount": of.get(currency, 0), "currency": currency} for currency in currencies]
        for name, of in (("available", held), ("pending", pending))
    }
    return {"object": "balance", "livemode": False, **parts}


def transfer(call: Call) -> dict[str, Any]:
    """Move money from the owner's balance to the destination's.

    Refused with Stripe's codes: resource_missing, insufficient_capabilities_for_transfer,
    balance_insufficient.
    """
    destination = call.params["destination"]
    account = call.store.find("account", "", destination)
    if account is None:
        raise missing("destination", destination, "destination")
    if account["capabilities"].get("transfers") != "active":
        raise refusal("insufficient_capabilities_for_transfer")
    made = withdrawn(call, "transfer", "tr") | {
        "amount_reversed": 0,
        "destination": destination,
        "reversed": False,
        "transfer_group": call.params["transfer_group"],
    }
    call.store.move(destination, made["currency"], made["amount"])
    return call.store.put(call.owner, made, "transfer.created")


def withdrawn(call: Call, kind: str, prefix: str) -> dict[str, Any]:
    """Take the amount from the owner's balance; the fields that all movements share."""
    amount, currency = call.params["amount"], call.params["currency"]
    if call.store.balance(call.owner).get(currency, 0) < amount:
        raise refusal("balance_insufficient")
    call.store.move(call.owner, currency, -amount)
    return {
        "id": call.store.new_id(prefix),
        "object": kind,
        "amount": amount,
        "created": call.store.now(),
        "currency": currency,
        "livemode": False,
        "metadata": call.params.get("metadata", {}),
    }


def payout(call: Call) -> dict[str, Any]:
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
    for wait, status in ((seconds // 2, "in_transit"), (seconds, "paid")):
        store.plan(base["created"] + wait, call.owner, made["id"], status)
    return store.put(call.owner, made, "payout.created")


def settle(store: Store) -> None:
    """Advance the payouts whose time has come by the stand-in's clock."""
    with store.transaction():
        for due, _, owner, id_, status, code in store.take_due():
            if (payout := store.find("payout", owner, id_)) and payout["status"] != "canceled":
                payout["failure_code"] = code or None
                became(store, owner, payout, status, due)


def became(
    store: Store, owner: str, payout: dict[str, Any], status: str, at: int
) -> dict[str, Any]:
    """Give a payout its next status; the money of one that failed comes back."""
    payout["status"] = status
    if status in ("failed", "canceled"):
        store.move(owner, payout["currency"], payout["amount"])
    kind = "updated" if status == "in_transit" else status
    return store.put(owner, payout, f"payout.{kind}", at)

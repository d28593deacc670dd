"""Balances and transfers; every effect is checked before anything moves."""

from typing import Any

from app.local.stripe.errors import missing, refusal
from app.local.stripe.store import Call


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
    call.store.emit("transfer.created", made, account=call.owner)
    return call.store.put(call.owner, made)


def retrieve(call: Call) -> dict[str, Any]:
    """The transfer or payout that the path names."""
    kind = "payout" if call.ids[0].startswith("po_") else "transfer"
    found = call.store.find(kind, call.owner, call.ids[0])
    if found is None:
        raise missing(kind, call.ids[0], "id", 404)
    return found


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

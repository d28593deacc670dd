"""Balances, transfers and reversals; every effect is checked before anything moves."""

from typing import Any

from app.local.stripe.errors import ApiError, missing, refusal
from app.local.stripe.events import emit
from app.local.stripe.store import Call


def balance(call: Call) -> dict[str, Any]:
    held = call.store.balance(call.owner)
    to_come = call.store.balance(call.owner, pending=True)
    currencies = sorted(held.keys() | to_come.keys()) or ["usd"]

    def amounts(of: dict[str, int]) -> list[dict[str, Any]]:
        found = [(currency, of.get(currency, 0)) for currency in currencies]
        return [{"amount": n, "currency": c, "source_types": {"card": n}} for c, n in found]

    parts = {"available": amounts(held), "pending": amounts(to_come)}
    return {"object": "balance", "livemode": False, **parts}


def transfer(call: Call) -> dict[str, Any]:
    """Moves money from the owner's balance to the destination's.

    Refused with Stripe's codes: resource_missing, insufficient_capabilities_for_transfer,
    balance_insufficient.
    """
    destination = call.params["destination"]
    if "source_transaction" in call.params:
        raise missing("charge", call.params["source_transaction"], "source_transaction")
    account = call.store.find("account", "", destination)
    if account is None:
        raise missing("destination", destination, "destination")
    if account["capabilities"].get("transfers") != "active":
        raise refusal("insufficient_capabilities_for_transfer")
    base = moved(call, "transfer", "tr")
    url = f"/v1/transfers/{base['id']}/reversals"
    none = {"object": "list", "data": [], "has_more": False, "total_count": 0, "url": url}
    call.store.move(destination, base["currency"], base["amount"])
    made = base | {
        "amount_reversed": 0,
        "destination": destination,
        "destination_payment": call.store.new_id("py"),
        "reversals": none,
        "reversed": False,
        "source_transaction": None,
        "transfer_group": call.params.get("transfer_group"),
    }
    emit(call.store, "transfer.created", made, account=call.owner)
    return call.store.put(call.owner, made)


def reverse(call: Call) -> dict[str, Any]:
    """Takes back all or part of a transfer, out of the destination's available balance."""
    transfer = retrieve(call)
    left = transfer["amount"] - transfer["amount_reversed"]
    amount = call.params.get("amount", left)
    if amount > left or not left:
        message = f"Transfer amount ({amount}) is greater than unreversed amount ({left})"
        raise ApiError(400, message, param="amount")
    wanted = {**call.params, "amount": amount, "currency": transfer["currency"]}
    source = call._replace(owner=transfer["destination"], params=wanted)
    reversal = moved(source, "transfer_reversal", "trr") | {"transfer": transfer["id"]}
    call.store.move(call.owner, transfer["currency"], amount)
    transfer["amount_reversed"] += amount
    transfer["reversed"] = amount == left
    transfer["reversals"]["data"].insert(0, reversal)
    transfer["reversals"]["total_count"] += 1
    call.store.put(call.owner, transfer)
    emit(call.store, "transfer.reversed", transfer, account=call.owner)
    return call.store.put(call.owner, reversal)


def retrieve(call: Call) -> dict[str, Any]:
    """The transfer or payout that the path names."""
    kind = "payout" if call.ids[0].startswith("po_") else "transfer"
    found = call.store.find(kind, call.owner, call.ids[0])
    if found is None:
        raise missing(kind, call.ids[0], "id", 404)
    return found


def moved(call: Call, kind: str, prefix: str) -> dict[str, Any]:
    """Takes the amount from the owner's balance; gives the fields all movements share."""
    amount, currency = call.params["amount"], call.params["currency"]
    if call.store.balance(call.owner).get(currency, 0) < amount:
        raise refusal("balance_insufficient")
    call.store.move(call.owner, currency, -amount)
    return {
        "id": call.store.new_id(prefix),
        "object": kind,
        "amount": amount,
        "balance_transaction": call.store.new_id("txn"),
        "created": call.store.now(),
        "currency": currency,
        "description": call.params.get("description"),
        "livemode": False,
        "metadata": call.params.get("metadata") or {},
        "source_type": call.params.get("source_type", "card"),
    }

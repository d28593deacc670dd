"""What somebody does at Stripe by hand, and this product never: reversals, cancelling, looking."""

from __future__ import annotations

from typing import Any

from app.local.stripe import params
from app.local.stripe.errors import ApiError
from app.local.stripe.money import became, withdrawn
from app.local.stripe.server import ID, Route, listing, retrieve
from app.local.stripe.store import Call


class Reversal(params.Form):
    amount: params.Amount | None = None


def reverse(call: Call) -> dict[str, Any]:
    """Take back all or part of a transfer, out of the destination's available balance."""
    transfer = retrieve(call)
    left = transfer["amount"] - transfer["amount_reversed"]
    amount = left if call.params["amount"] is None else call.params["amount"]
    if amount > left or not left:
        message = f"Transfer amount ({amount}) is greater than unreversed amount ({left})"
        raise ApiError(400, message, param="amount")
    wanted = {"amount": amount, "currency": transfer["currency"]}
    source = call._replace(owner=transfer["destination"], params=wanted)
    reversal = withdrawn(source, "transfer_reversal", "trr") | {"transfer": transfer["id"]}
    call.store.move(call.owner, transfer["currency"], amount)
    transfer["amount_reversed"] += amount
    transfer["reversed"] = amount == left
    call.store.put(call.owner, transfer, "transfer.reversed")
    return call.store.put(call.owner, reversal)


def cancel(call: Call) -> dict[str, Any]:
    """Give a payout's money back, as long as the bank has not got it."""
    payout = retrieve(call)
    if payout["status"] != "pending":
        message = f"Payouts can only be canceled while pending; this one is {payout['status']}."
        raise ApiError(400, message)
    return became(call.store, call.owner, payout, "canceled", call.store.now())


ROUTES: list[Route] = [
    ("POST", f"/v1/transfers{ID}/reversals", Reversal, reverse),
    ("POST", f"/v1/payouts{ID}/cancel", params.Form, cancel),
    ("GET", "/v1/events", params.Page, listing),
]

"""What the Stripe stand-in refuses of parameters, and how it lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.support.standins import StripeStandIn
from tests.support.stripe_stand import error_of

START = datetime(2025, 1, 1, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def stand() -> Iterator[StripeStandIn]:
    with StripeStandIn(clock=lambda: START) as stand:
        stand.top_up(100_000)
        yield stand


INTEGER, UNKNOWN = "parameter_invalid_integer", "parameter_unknown"
TRANSFERS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"colour": "red"}, UNKNOWN, "colour"),
    ({"amount": None}, "parameter_missing", "amount"),
    ({"currency": None}, "parameter_missing", "currency"),
    *[({"amount": bad}, INTEGER, "amount") for bad in ("1.5", "1_000", "", 0, -5)],
    ({"amount": 100_000_000}, "amount_too_large", "amount"),
    ({"currency": "zzz"}, None, "currency"),
    ({"metadata": "x"}, None, "metadata"),
    ({"metadata": {"k": "x" * 501}}, None, "metadata[k]"),
    ({"metadata": {"k" * 41: "x"}}, None, f"metadata[{'k' * 41}]"),
    ({"metadata": {f"k{n}": "x" for n in range(51)}}, None, "metadata"),
    ({"transfer_group": "x" * 5001}, None, "transfer_group"),
    ({"transfer_group": ""}, "parameter_invalid_empty", "transfer_group"),
    ({"destination": {"a": 1}}, None, "destination"),
    # What the real one takes and this product never sends.
    ({"description": "x"}, UNKNOWN, "description"),
    ({"expand": ["destination"]}, UNKNOWN, "expand"),
]
PAYOUTS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"amount": 0}, INTEGER, "amount"),
    ({"currency": "zzz"}, None, "currency"),
    ({"method": "someday"}, None, "method"),
    ({"destination_account": "acct_1"}, UNKNOWN, "destination_account"),
]
LISTS: list[tuple[dict[str, Any], str | None, str]] = [
    *[({"limit": bad}, INTEGER, "limit") for bad in (0, 101, "many")],
    ({"created": {"gte": "noon"}}, INTEGER, "created[gte]"),
    ({"created": {"since": 1}}, UNKNOWN, "created[since]"),
    ({"created": "noon"}, None, "created"),
    ({"starting_after": "tr_unknown"}, "resource_missing", "starting_after"),
    ({"ending_before": "tr_unknown"}, UNKNOWN, "ending_before"),
    ({"status": "paid"}, UNKNOWN, "status"),
]


def test_parameters_are_checked_strictly(stand: StripeStandIn) -> None:
    to, transfers = stand.account(), stand.client.v1.transfers

    def call(what: str, change: Any, key: str) -> object:
        if what == "lists":
            return transfers.list(change)
        if what == "payouts":
            return stand.bank(to, key, **change)
        given: Any = {"amount": 5, "currency": "usd", "destination": to, **change}
        given = {name: value for name, value in given.items() if value is not None}
        return transfers.create(given, {"idempotency_key": key})

    for what, rows in (("transfers", TRANSFERS), ("payouts", PAYOUTS), ("lists", LISTS)):
        for change, code, param in rows:
            key = f"{what}-{change}"[:255]
            with pytest.raises(stripe.InvalidRequestError) as refused:
                call(what, change, key)
            error = error_of(refused.value)
            assert (error.get("code"), error["param"]) == (code, param), change
            # A validation failure is not stored: the key is free for other parameters.
            assert stand.pay(to, key).amount == 500


@pytest.mark.parametrize(
    ("currency", "step", "transferred"),
    [
        *[(currency, 100, False) for currency in ("huf", "twd")],  # only at the bank
        *[(currency, 100, True) for currency in ("isk", "ugx")],
        *[(currency, 10, True) for currency in ("bhd", "jod", "kwd", "omr", "tnd")],
    ],
)
def test_some_currencies_are_moved_in_steps(
    stand: StripeStandIn, currency: str, step: int, transferred: bool
) -> None:
    to, odd = stand.account(), 3 * step // 2
    for owner in ("", to):
        stand.top_up(1_000, currency, account=owner)
    for send, strict in ((stand.pay, transferred), (stand.bank, True)):
        if strict:
            with pytest.raises(stripe.InvalidRequestError) as refused:
                send(to, f"{currency}-{to}", odd, currency=currency)
            assert refused.value.param == "amount"
        even = 2 * step if strict else odd
        assert send(to, f"{currency}-{to}", even, currency=currency).amount == even

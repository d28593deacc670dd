"""What the Stripe stand-in refuses of parameters, and how it lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.support.standins import StripeStandIn
from tests.support.stripe_stand import Stand, error_of

START = datetime(2025, 1, 1, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with StripeStandIn(clock=lambda: START) as standin:
        served = Stand(standin.url)
        served.admin("POST", "topup", {"amount": 100_000})
        yield served


INTEGER, UNKNOWN = "parameter_invalid_integer", "parameter_unknown"


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
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
    ],
)
def test_parameters_are_checked_strictly(
    stand: Stand, change: dict[str, Any], code: str | None, param: str
) -> None:
    to, key = stand.account(), f"k-{change}"[:255]
    given = {"amount": 5, "currency": "usd", "destination": to, **change}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.client.v1.transfers.create(given, {"idempotency_key": key})  # type: ignore[arg-type]
    error = error_of(refused.value)
    assert (error.get("code"), error["param"]) == (code, param)
    # A validation failure is not stored: the key is free for other parameters.
    assert stand.pay(to, key).amount == 500


@pytest.mark.parametrize(
    ("change", "param"),
    [
        *[({"amount": bad}, "amount") for bad in (0, -100, 1.5)],
        ({"currency": "zzz"}, "currency"),
        ({"method": "someday"}, "method"),
        ({"destination_account": "acct_1"}, "destination_account"),
        ({"statement_descriptor": "x"}, "statement_descriptor"),
    ],
)
def test_a_payouts_parameters_are_checked_strictly(
    stand: Stand, change: dict[str, Any], param: str
) -> None:
    to = stand.account()
    stand.pay(to, f"k-{to}")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.bank(to, "b", **{"amount": 5, **change})
    assert refused.value.param == param
    assert stand.bank(to, "b", 500).amount == 500


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *[({"limit": bad}, "limit") for bad in (0, 101, "many")],
        ({"created": {"gte": "noon"}}, "created[gte]"),
        ({"created": {"since": 1}}, "created[since]"),
        ({"created": "noon"}, "created"),
        ({"starting_after": "tr_unknown"}, "starting_after"),
        ({"ending_before": "tr_unknown"}, "ending_before"),
        ({"status": "paid"}, "status"),
    ],
)
def test_list_parameters_are_checked_strictly(
    stand: Stand, query: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.client.v1.transfers.list(query)  # type: ignore[arg-type]
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("currency", "step", "transferred"),
    [
        *[(currency, 100, False) for currency in ("huf", "twd")],  # only at the bank
        *[(currency, 100, True) for currency in ("isk", "ugx")],
        *[(currency, 10, True) for currency in ("bhd", "jod", "kwd", "omr", "tnd")],
    ],
)
def test_some_currencies_are_moved_in_steps(
    stand: Stand, currency: str, step: int, transferred: bool
) -> None:
    to, odd = stand.account(), 3 * step // 2
    for owner in ("", to):
        stand.admin("POST", "topup", {"amount": 1_000, "currency": currency, "account": owner})
    for send, strict in ((stand.pay, transferred), (stand.bank, True)):
        if strict:
            with pytest.raises(stripe.InvalidRequestError) as refused:
                send(to, f"{currency}-{to}", odd, currency=currency)
            assert refused.value.param == "amount"
        even = 2 * step if strict else odd
        assert send(to, f"{currency}-{to}", even, currency=currency).amount == even


def test_lists_page_newest_first(stand: Stand) -> None:
    to = stand.account()
    made = [stand.pay(to, f"page{n}", 1 + n, transfer_group=f"g{n % 2}").id for n in range(7)][::-1]
    listed = stand.client.v1.transfers.list
    assert [t.id for t in listed({"limit": 2}).auto_paging_iter()][:7] == made
    page = listed({"limit": 3, "starting_after": made[1]})
    assert ([t.id for t in page.data], page.has_more) == (made[2:5], True)
    assert [t.id for t in listed({"transfer_group": "g1"}).data] == made[1::2]
    assert listed({"transfer_group": "g2"}).data == []
    stand.admin("POST", "clock", {"advance_seconds": 60})
    late = stand.pay(to, "late")
    assert [t.id for t in listed({"created": {"gte": late.created}}).data] == [late.id]

"""What the Stripe stand-in refuses of parameters, and how it lists."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from app.local.serving import serve_in_thread
from app.local.stripe import StripeStandIn
from tests.support.stripe_stand import Stand, error_of

START = datetime(2025, 1, 1, 9, tzinfo=UTC)


@pytest.fixture
def stand() -> Iterator[Stand]:
    app = StripeStandIn(clock=lambda: START)
    with serve_in_thread(app) as url:
        served = Stand(url)
        served.admin("POST", "topup", {"amount": 100_000})
        yield served
    app.close()


@pytest.mark.parametrize(
    ("change", "code", "param", "message"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour", "Received unknown parameter: colour"),
        ({"amount": None}, "parameter_missing", "amount", "Missing required param: amount."),
        ({"currency": None}, "parameter_missing", "currency", "Missing required param: currency."),
        ({"amount": "1.5"}, "parameter_invalid_integer", "amount", "Invalid integer: 1.5"),
        ({"amount": "1_000"}, "parameter_invalid_integer", "amount", "Invalid integer: 1_000"),
        ({"amount": ""}, "parameter_invalid_empty", "amount", "You passed an empty string"),
        ({"amount": 0}, "parameter_invalid_integer", "amount", "This value must be greater than"),
        ({"amount": -5}, "parameter_invalid_integer", "amount", "This value must be greater than"),
        ({"amount": 100_000_000}, "amount_too_large", "amount", "Amount must be no more than"),
        ({"currency": "zzz"}, None, "currency", "Invalid currency: zzz. Stripe currently"),
        ({"source_type": "gold"}, None, "source_type", "Invalid source_type: must be one of"),
        ({"metadata": "x"}, None, "metadata", "Invalid object: x"),
        ({"metadata": {"k": "x" * 501}}, None, "metadata", "Metadata values can have up to 500"),
        ({"metadata": {"k" * 41: "x"}}, None, "metadata", "Metadata keys can have up to 40"),
        ({"metadata": {f"k{n}": "x" for n in range(51)}}, None, "metadata", "Metadata can have up"),
        ({"description": "x" * 5001}, None, "description", "Invalid string: too long"),
        ({"transfer_group": "x" * 5001}, None, "transfer_group", "Invalid string: too long"),
        ({"destination": {"a": 1}}, None, "destination", "Invalid string"),
        ({"expand": ["destination"]}, None, "expand", "This property cannot be expanded"),
    ],
)
def test_parameters_are_checked_strictly(
    stand: Stand, change: dict[str, Any], code: str | None, param: str, message: str
) -> None:
    to = stand.account()
    given = {"amount": 5, "currency": "usd", "destination": to, **change}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.client.v1.transfers.create(given, {"idempotency_key": "k"})  # type: ignore[arg-type]
    error = error_of(refused.value)
    assert (error.get("code"), error["param"]) == (code, param)
    assert error["message"].startswith(message)
    # A validation failure is not stored: the key is free for other parameters.
    assert stand.pay(to, "k").amount == 500


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": -100}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"currency": "zzz"}, "currency"),
        ({"method": "someday"}, "method"),
        ({"statement_descriptor": "x" * 23}, "statement_descriptor"),
        ({"destination_account": "acct_1"}, "destination_account"),
    ],
)
def test_a_payouts_parameters_are_checked_strictly(
    stand: Stand, change: dict[str, Any], param: str
) -> None:
    to = stand.account()
    stand.pay(to, "k")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.bank(to, "b", **{"amount": 5, **change})
    assert refused.value.param == param
    # Not stored: the key is free for what is right.
    assert stand.bank(to, "b", 500).amount == 500


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
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


@pytest.mark.parametrize("currency", ["huf", "twd", "isk", "ugx"])
def test_currencies_without_decimals_want_hundreds(stand: Stand, currency: str) -> None:
    to = stand.account()
    for owner in ("", to):
        stand.admin("POST", "topup", {"amount": 1_000, "currency": currency, "account": owner})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.bank(to, "b", 150, currency=currency)
    assert refused.value.param == "amount"
    assert stand.bank(to, "b", 200, currency=currency).amount == 200
    if currency in ("huf", "twd"):  # two decimals everywhere but at the bank
        assert stand.pay(to, "k", 150, currency=currency).amount == 150
    else:
        with pytest.raises(stripe.InvalidRequestError):
            stand.pay(to, "k", 150, currency=currency)


@pytest.mark.parametrize("currency", ["bhd", "jod", "kwd", "omr", "tnd"])
def test_currencies_of_three_decimals_want_tens(stand: Stand, currency: str) -> None:
    to = stand.account()
    for owner in ("", to):
        stand.admin("POST", "topup", {"amount": 1_000, "currency": currency, "account": owner})
    for send in (stand.pay, stand.bank):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            send(to, "k", 155, currency=currency)
        assert refused.value.param == "amount"
    assert stand.pay(to, "k", 150, currency=currency).amount == 150
    assert stand.bank(to, "b", 150, currency=currency).amount == 150


# Lists


def test_lists_page_newest_first(stand: Stand) -> None:
    to, other = stand.account(), stand.account()
    made = [stand.pay(to, f"k{n}", 1 + n, transfer_group=f"g{n % 2}").id for n in range(7)]
    made.reverse()
    listed = stand.client.v1.transfers.list
    assert [t.id for t in listed({"limit": 2}).auto_paging_iter()] == made
    page = listed({"limit": 3, "starting_after": made[1]})
    assert ([t.id for t in page.data], page.has_more) == (made[2:5], True)
    page = listed({"limit": 3, "starting_after": made[3]})
    assert ([t.id for t in page.data], page.has_more) == (made[4:], False)
    assert [t.id for t in listed({"transfer_group": "g1"}).data] == made[1::2]
    assert listed({"destination": other}).data == []


def test_lists_filter_by_creation(stand: Stand) -> None:
    to = stand.account()
    first = stand.pay(to, "k1")
    stand.admin("POST", "clock", {"advance_seconds": 60})
    second = stand.pay(to, "k2")
    listed = stand.client.v1.transfers.list
    assert second.created == first.created + 60
    cases: list[tuple[Any, list[str]]] = [
        ({"gte": second.created}, [second.id]),
        ({"gt": first.created}, [second.id]),
        ({"lt": second.created}, [first.id]),
        ({"gte": first.created, "lte": second.created}, [second.id, first.id]),
    ]
    for bounds, expected in cases:
        assert [t.id for t in listed({"created": bounds}).data] == expected
    assert [t.id for t in listed({"created": first.created}).data] == [first.id]


# The admin routes


@pytest.mark.parametrize(
    ("method", "route", "body", "status"),
    [
        ("POST", "faults", {"rules": [{"kind": "meteor", "next": 1}]}, 400),
        ("POST", "faults", {"rules": [{"kind": "409"}]}, 400),
        ("POST", "topup", {"amount": -1}, 400),
        ("POST", "clock", {"advance_seconds": -1}, 400),
        ("POST", "rate", {"per_second": 0}, 400),
        ("POST", "accounts", {"accounts": [{"payout_interval": "hourly"}]}, 400),
        ("POST", "webhook", {"url": "http://127.0.0.1:1/", "secret": "s", "events": []}, 400),
        ("GET", "nothing", None, 404),
    ],
)
def test_admin_routes_refuse_nonsense(
    stand: Stand, method: str, route: str, body: object, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        stand.admin(method, route, body)
    refused.value.close()
    assert refused.value.code == status

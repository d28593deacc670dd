"""The Stripe stand-in, driven over loopback by Stripe's own client library."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import stripe

from tests.support.standins import StripeStandIn
from tests.support.stripe_stand import KEY, error_of
from tests.support.waiting import PATIENCE_SECONDS

START = datetime(2025, 1, 1, 9, tzinfo=UTC)
DAY = 24 * 3600


@pytest.fixture
def stand() -> Iterator[StripeStandIn]:
    with StripeStandIn(clock=lambda: START) as stand:
        stand.top_up(100_000)
        yield stand


# --- money -----------------------------------------------------------------------------------


def test_transfers_refuse_what_stripe_refuses(stand: StripeStandIn) -> None:
    to = stand.account()
    for key, amount, currency, destination, code in (
        ("a", 100_001, "usd", to, "balance_insufficient"),
        ("b", 1, "eur", to, "balance_insufficient"),
        ("c", 1, "usd", "acct_unknown", "resource_missing"),
        ("d", 1, "usd", stand.account(transfers="inactive"), None),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            stand.pay(destination, key, amount, currency=currency)
        assert refused.value.http_status == 400
        assert refused.value.code == (code or "insufficient_capabilities_for_transfer")
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        stand.client.v1.transfers.retrieve("tr_unknown")
    assert (unknown.value.http_status, unknown.value.code) == (404, "resource_missing")
    assert stand.transfers() == []
    for state, method, code in (
        ({"payouts_enabled": False}, "standard", "payouts_not_allowed"),
        ({"instant_payouts": False}, "instant", "instant_payouts_unsupported"),
        ({}, "standard", "balance_insufficient"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            stand.bank(stand.account(**state), f"bank-{code}", method=method)
        assert (refused.value.http_status, refused.value.code) == (400, code)


# --- idempotency (https://docs.stripe.com/api/idempotent_requests) ---------------------------


def test_a_result_is_replayed_for_24_hours_and_then_executed_again(stand: StripeStandIn) -> None:
    given: dict[str, Any] = {"amount": 500, "currency": "usd", "destination": stand.account()}
    first = stand.raw("k", **given)
    assert "Idempotent-Replayed" not in first.headers
    stand.ahead += timedelta(seconds=DAY - 1)
    again = stand.raw("k", **given)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Request-Id"] != first.headers["Request-Id"]
    assert again.content == first.content
    stand.ahead += timedelta(seconds=1)
    assert stand.raw("k", **given).json()["id"] != first.json()["id"]
    assert len(stand.transfers()) == 2
    # A refusal is a result, too, whatever has changed since.
    too_much = given | {"amount": 100_001}
    assert stand.raw("r", **too_much).json()["error"]["code"] == "balance_insufficient"
    stand.top_up(100_000)
    again = stand.raw("r", **too_much)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (400, "true")
    assert stand.raw("other", **too_much).status_code == 200


def test_a_key_is_one_set_of_parameters_of_one_account(stand: StripeStandIn) -> None:
    to = stand.account()
    stand.pay(to, "k", 500)
    with pytest.raises(stripe.IdempotencyError) as refused:
        stand.pay(to, "k", 501)
    assert refused.value.http_status == 400
    assert error_of(refused.value)["type"] == "idempotency_error"
    assert stand.raw("k", to, amount=10, currency="usd").json()["object"] == "payout"
    assert len(stand.transfers()) == 1
    assert stand.pay(to, "k" * 255).id
    with pytest.raises(stripe.InvalidRequestError):
        stand.pay(to, "k" * 256)


def test_a_key_in_flight_is_a_conflict_and_is_not_stored(stand: StripeStandIn) -> None:
    to = stand.account()
    stand.fault("slow", seconds=60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stand.pay, to, "k")
        while not stand.rules[0].hits:
            time.sleep(0.005)
        with pytest.raises(stripe.APIError) as conflict:
            stand.pay(to, "k")
        assert conflict.value.http_status == 409
        assert error_of(conflict.value)["code"] == "idempotency_key_in_use"
        stand.forgive()
        assert stand.pay(to, "other").id != first.result().id
    assert stand.pay(to, "k").id == first.result().id
    assert len(stand.transfers()) == 2


# --- keys and URLs ---------------------------------------------------------------------------


def test_live_keys_missing_keys_and_unknown_urls_are_refused(stand: StripeStandIn) -> None:
    for live in ("sk_live_0123456789", "rk_live_0123456789"):
        headers = {"Authorization": f"Bearer {live}"}
        refused = requests.get(f"{stand.url}/v1/balance", headers=headers, timeout=PATIENCE_SECONDS)
        assert refused.status_code == 401
        assert live not in refused.text
    assert requests.get(f"{stand.url}/v1/balance", timeout=PATIENCE_SECONDS).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    lost = requests.get(f"{stand.url}/v1/unicorns", headers=headers, timeout=PATIENCE_SECONDS)
    assert lost.headers["Request-Id"].startswith("req_")
    assert lost.status_code == 404
    assert lost.json()["error"]["message"].startswith("Unrecognized request URL (GET: /v1/unicorns")


def test_events_are_never_sent_unsigned_nor_off_this_machine() -> None:
    with StripeStandIn() as standin:
        for url, secret in (("http://127.0.0.1:1/", ""), ("http://example.com/", "whsec_x")):
            with pytest.raises(ValueError, match=r"webhook's URL|are signed"):
                standin.sender.aim(url, secret)


# --- parameters ------------------------------------------------------------------------------

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

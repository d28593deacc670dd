"""The Stripe stand-in's faults and limits: what fails, how, how often, and what is kept of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from app.local.serving import serve_in_thread
from app.local.stripe import StripeStandIn
from app.platform.gateways.stripe import (
    BankPayout,
    StripeError,
    StripeGateway,
    StripeRateLimited,
    StripeRefused,
    StripeServerError,
    StripeUnknownOutcome,
    Transfer,
)
from tests.support.stripe_stand import KEY, Stand, error_of

START = datetime(2025, 1, 1, 9, tzinfo=UTC)
SEED = 20250115
ROUGH = [
    {"kind": "timeout_after_effect", "probability": 0.10},
    {"kind": "409", "probability": 0.05},
    {"kind": "429", "probability": 0.05},
    {"kind": "500_before", "probability": 0.025},
    {"kind": "500_after", "probability": 0.025},
    {"kind": "refuse", "probability": 0.01, "code": "account_invalid"},
    {"kind": "refuse", "probability": 0.01, "code": "transfers_not_allowed"},
]


class Timer:
    """Seconds that pass when told."""

    now = 0.0


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def stand(timer: Timer) -> Iterator[Stand]:
    app = StripeStandIn(clock=lambda: START, timer=lambda: timer.now)
    with serve_in_thread(app) as url:
        served = Stand(url)
        served.admin("POST", "topup", {"amount": 100_000})
        yield served
        served.admin("DELETE", "faults")
    app.close()


@pytest.fixture
def gateway(stand: Stand) -> StripeGateway:
    return StripeGateway(KEY, stand.url)


# Faults


@pytest.mark.parametrize(
    ("rule", "raised", "status", "effect", "stored"),
    [
        ({"kind": "drop_before"}, stripe.APIConnectionError, None, False, False),
        ({"kind": "timeout_after_effect"}, stripe.APIConnectionError, None, True, True),
        ({"kind": "409"}, stripe.APIError, 409, False, False),
        ({"kind": "429", "retry_after": 3}, stripe.RateLimitError, 429, False, False),
        ({"kind": "500_before"}, stripe.APIError, 500, False, True),
        ({"kind": "500_after"}, stripe.APIError, 500, True, True),
        ({"kind": "refuse"}, stripe.InvalidRequestError, 400, False, True),
        (
            {"kind": "refuse", "code": "account_invalid", "status": 402},
            stripe.CardError,
            402,
            False,
            True,
        ),
    ],
)
def test_faults_fail_as_they_say(
    stand: Stand,
    rule: dict[str, Any],
    raised: type[stripe.StripeError],
    status: int | None,
    effect: bool,
    stored: bool,
) -> None:
    to = stand.account()
    stand.fault(**rule)
    with pytest.raises(raised) as failure:
        stand.pay(to, "k")
    assert failure.value.http_status == status
    assert bool(stand.transfers()) is effect
    if "retry_after" in rule:
        assert (failure.value.headers or {})["Retry-After"] == "3"
    again = stand.raw("k", amount=500, currency="usd", destination=to)
    assert ("Idempotent-Replayed" in again.headers) is stored
    assert again.status_code == (status if stored and status else 200)
    assert len(stand.transfers()) == (1 if effect or not stored else 0)


def test_rules_strike_only_what_they_name(stand: Stand) -> None:
    bad, good = stand.account(), stand.account()
    rules = [
        {"kind": "refuse", "probability": 1, "destinations": [bad], "code": "account_invalid"},
        {"kind": "429", "probability": 1, "method": "GET", "path": "/v1/accounts*"},
    ]
    stand.admin("POST", "faults", {"rules": rules})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.pay(bad, "k1")
    assert refused.value.code == "account_invalid"
    assert stand.pay(good, "k2").id
    with pytest.raises(stripe.RateLimitError):
        stand.client.v1.accounts.list()
    assert [r["hits"] for r in stand.admin("GET", "faults")["rules"]] == [1, 1]
    stand.admin("DELETE", "faults")
    assert len(stand.client.v1.accounts.list().data) == 2


def test_chance_follows_the_seed_and_the_key_not_the_order(stand: Stand) -> None:
    to = stand.account()

    def struck(keys: list[str]) -> set[str]:
        stand.admin("DELETE", "faults")
        rule = {"kind": "409", "probability": 0.5}
        stand.admin("POST", "faults", {"rules": [rule], "seed": 7})
        return {
            key
            for key in keys
            if stand.raw(key, amount=1, currency="usd", destination=to).status_code == 409
        }

    keys = [f"k{n}" for n in range(20)]
    first = struck(keys)
    assert 0 < len(first) < 20
    assert struck(keys[::-1]) == first


@pytest.mark.parametrize(
    ("rule", "raised", "code"),
    [
        ({"kind": "409", "code": "lock_timeout"}, stripe.APIError, "lock_timeout"),
        ({"kind": "429", "code": "lock_timeout"}, stripe.RateLimitError, "lock_timeout"),
        ({"kind": "429"}, stripe.RateLimitError, "rate_limit"),
    ],
)
def test_a_conflict_names_its_code(
    stand: Stand, rule: dict[str, Any], raised: type[stripe.StripeError], code: str
) -> None:
    to = stand.account()
    stand.fault(**rule)
    with pytest.raises(raised) as refused:
        stand.pay(to, "k")
    assert error_of(refused.value)["code"] == code
    assert stand.pay(to, "k").amount == 500


# A rough day


class Payments:
    """Half transfers, half bank payouts, each with a key of its own."""

    def __init__(self, stand: Stand, count: int) -> None:
        self.stand = stand
        self.gateway = StripeGateway(KEY, stand.url)
        stand.account(id="acct_paid")
        stand.admin("POST", "topup", {"amount": 10 * count, "account": "acct_paid"})
        self.keys = [f"{'po' if n % 2 else 'tr'}-{n}" for n in range(count)]

    def send(self, key: str) -> Transfer | BankPayout | StripeError:
        given: Any = {"amount_minor": 10, "currency": "usd", "idempotency_key": key, "metadata": {}}
        try:
            if key.startswith("po"):
                return self.gateway.create_payout(account="acct_paid", **given)
            return self.gateway.create_transfer(
                destination="acct_paid", transfer_group=key, **given
            )
        except StripeError as failure:
            return failure

    def round(self, *, order: int = 0) -> dict[str, Transfer | BankPayout | StripeError]:
        """Every key once, four at a time, in an order of its own."""
        keys = random.Random(order).sample(self.keys, len(self.keys))
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(keys, pool.map(self.send, keys), strict=True))

    def made(self) -> list[str]:
        """The ids of all objects that Stripe has."""
        audit = self.stand.admin("GET", "transfers")
        return [one["id"] for one in (*audit["transfers"], *audit["payouts"])]


def test_a_rough_day_has_its_shares_in_both_halves(stand: Stand) -> None:
    payments = Payments(stand, 1000)
    stand.admin("POST", "faults", {"rules": ROUGH, "seed": SEED})
    first = payments.round()
    for half, made in (("tr", Transfer), ("po", BankPayout)):
        seen = {type(end) for key, end in first.items() if key.startswith(half)}
        assert seen == {
            made,
            StripeUnknownOutcome,
            StripeServerError,
            StripeRateLimited,
            StripeRefused,
        }
    rules = stand.admin("GET", "faults")["rules"]
    for rule in rules:
        expected = len(first) * rule["probability"]
        assert abs(rule["hits"] - expected) < 4 * expected**0.5
    after_effect = next(rule["hits"] for rule in rules if rule["kind"] == "500_after")

    stand.admin("DELETE", "faults")
    last = payments.round(order=1)
    codes = set()
    for key, end in first.items():
        again = last[key]
        match end:
            case StripeRefused():
                assert isinstance(again, StripeRefused)
                assert again.code == end.code
                codes.add(again.code)
            case StripeServerError():
                assert isinstance(again, StripeServerError)
            case StripeRateLimited():
                assert isinstance(again, Transfer | BankPayout)
            case StripeUnknownOutcome():
                # It may be that a stored refusal or 500 was what got lost.
                assert not isinstance(again, StripeRateLimited)
            case _:
                assert again == end
    assert codes == {"account_invalid", "transfers_not_allowed"}
    landed = {end.id for end in last.values() if isinstance(end, Transfer | BankPayout)}
    there = payments.made()
    assert len(there) == len(landed) + after_effect
    assert landed <= set(there)


def test_the_same_seed_is_the_same_day_in_any_order() -> None:
    days = []
    for order in (1, 2):
        app = StripeStandIn(clock=lambda: START)
        with serve_in_thread(app) as url:
            payments = Payments(Stand(url), 200)
            payments.stand.admin("POST", "topup", {"amount": 100_000})
            payments.stand.admin("POST", "faults", {"rules": ROUGH, "seed": SEED})
            days.append({key: str(type(end)) for key, end in payments.round(order=order).items()})
        app.close()
    assert days[0] == days[1]
    assert len(set(days[0].values())) == 6


# A platform that runs dry


def test_what_the_balance_does_not_cover_waits_for_a_top_up_and_a_new_key(
    stand: Stand, gateway: StripeGateway
) -> None:
    to = stand.account()

    def pay(key: str) -> Transfer:
        return gateway.create_transfer(
            amount_minor=40_000,
            currency="usd",
            destination=to,
            transfer_group=key,
            idempotency_key=key,
            metadata={},
        )

    pay("k1")
    pay("k2")
    for _ in range(2):
        with pytest.raises(StripeRefused) as dry:
            pay("k3")
        assert dry.value.code == "balance_insufficient"
        stand.admin("POST", "topup", {"amount": 20_000})
    assert pay("k4").amount_minor == 40_000
    assert gateway.platform_balance().available == {"usd": 20_000}


def test_money_still_pending_pays_nobody(stand: Stand, gateway: StripeGateway) -> None:
    to = stand.account()
    stand.admin("POST", "topup", {"amount": 700, "currency": "eur", "pending_seconds": 60})
    before = gateway.platform_balance()
    assert (before.available, before.pending) == (
        *({"usd": 100_000, "eur": 0}, {"usd": 0, "eur": 700}),
    )
    assert before.total == {"usd": 100_000, "eur": 700}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        stand.pay(to, "k1", 700, currency="eur")
    assert refused.value.code == "balance_insufficient"
    stand.admin("POST", "clock", {"advance_seconds": 60})
    assert gateway.platform_balance().available == {"usd": 100_000, "eur": 700}
    stand.pay(to, "k2", 600, currency="eur")
    after = gateway.platform_balance()
    assert after.total == {"usd": 100_000, "eur": 100}
    assert stand.admin("GET", "transfers")["balances"][""] == after.available


# The rate limit


def test_more_calls_than_the_limit_within_any_second_are_refused(
    stand: Stand, gateway: StripeGateway, timer: Timer
) -> None:
    to = stand.account()
    assert stand.admin("POST", "rate", {"per_second": 3})["per_second"] == 3
    stand.pay(to, "k1")
    timer.now = 0.5
    stand.pay(to, "k2")
    list(gateway.list_accounts())
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError) as refused:
            stand.pay(to, "k3")
    assert error_of(refused.value)["code"] == "rate_limit"
    assert (refused.value.headers or {})["Stripe-Rate-Limited-Reason"] == "global-rate"
    with pytest.raises(StripeRateLimited):
        gateway.platform_balance()
    timer.now = 1.0  # the first call is a second old, the other two are not
    assert stand.pay(to, "k3").amount == 500
    with pytest.raises(StripeRateLimited):
        gateway.platform_balance()
    timer.now = 1.5
    assert gateway.platform_balance().available == {"usd": 98_500}
    assert stand.admin("GET", "rate") == {
        "per_second": 3,
        "per_endpoint": None,
        "admitted": 5,
        "refused": 4,
        "busiest_second": 3,
    }
    assert stand.admin("POST", "rate", {})["admitted"] == 0
    for n in range(5):
        stand.pay(to, f"more-{n}")
    assert stand.admin("GET", "rate")["busiest_second"] == 5


def test_an_endpoint_has_a_limit_of_its_own(stand: Stand, timer: Timer) -> None:
    to = stand.account()
    stand.admin("POST", "rate", {"per_second": 100, "per_endpoint": 2})
    made = [stand.pay(to, f"k{n}") for n in range(2)]
    with pytest.raises(stripe.RateLimitError) as refused:
        stand.pay(to, "k2")
    assert (refused.value.headers or {})["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
    retrieve = stand.client.v1.transfers.retrieve
    assert [retrieve(one.id).id for one in made] == [one.id for one in made]
    with pytest.raises(stripe.RateLimitError):  # whichever id it names
        retrieve("tr_unknown")
    stand.bank(to, "b")
    timer.now = 1.0
    assert stand.pay(to, "k2").id

"""What the tests add to the Stripe stand-in: which requests a fault strikes, and a rate limit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stripe

from tests.support.standins import StripeStandIn
from tests.support.stripe_stand import Stand, error_of


class Timer:
    """Seconds that pass when told."""

    now = 0.0


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def stand(timer: Timer) -> Iterator[Stand]:
    with StripeStandIn(timer=lambda: timer.now) as standin:
        served = Stand(standin.url)
        served.admin("POST", "topup", {"amount": 100_000})
        yield served


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
        statuses = {
            key: stand.raw(key, amount=1, currency="usd", destination=to).status_code
            for key in keys
        }
        return {key for key, status in statuses.items() if status == 409}

    keys = [f"k{n}" for n in range(20)]
    first = struck(keys)
    assert 0 < len(first) < 20
    assert struck(keys[::-1]) == first


def test_more_calls_than_the_limit_within_any_second_are_refused(
    stand: Stand, timer: Timer
) -> None:
    stand.admin("POST", "rate", {"per_second": 2})
    balance = stand.client.v1.balance.retrieve
    balance()
    timer.now = 0.5
    balance()
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError) as refused:
            balance()
    assert error_of(refused.value)["code"] == "rate_limit"
    assert (refused.value.headers or {})["Stripe-Rate-Limited-Reason"] == "global-rate"
    timer.now = 1.0  # the first call is a second old, the other one is not
    balance()
    with pytest.raises(stripe.RateLimitError):
        balance()
    assert stand.admin("GET", "rate") == {"per_second": 2, "refused": 3}

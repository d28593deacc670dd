"""A pay day with too little on the platform's balance waits, and a top-up lets it continue."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from app.platform.ledger.postings import balanced
from app.platform.payouts.retry import READY_STALE
from app.switchyard.dispatch import dispatch
from tests.support.platform import START, Platform

PAY_DAY = {"payoutDate": "2025-01-15"}
LANDED = {("landed", None)}


def creators(platform: Platform, *owed: int, currency: str = "usd") -> None:
    """Creators usd0, usd1, … whose money is not at Stripe yet."""
    for number, amount in enumerate(owed):
        platform.creator(f"{currency}{number}", amount, funded=False, currency=currency)


def go_on(platform: Platform, until: timedelta) -> None:
    """Work and let time pass, up to `until` after the start, whatever is left open."""
    while platform.now < START + until:
        platform.later(timedelta(minutes=10))
        platform.work()


def outcomes(platform: Platform) -> set[tuple[str, str | None]]:
    return {(outcome, code) for _, outcome, code in platform.attempts()}


def ended(platform: Platform, run_id: str) -> dict[str, Any]:
    run = platform.run(run_id)
    assert run.status == "succeeded", run.error
    return dict(json.loads(run.result))


def test_it_waits_for_a_top_up_and_goes_on_by_itself(platform: Platform) -> None:
    creators(platform, *[10_000] * 5)
    platform.stand.top_up(25_000)
    run = dispatch("process-payouts", PAY_DAY)
    platform.work()
    go_on(platform, timedelta(hours=2))
    assert platform.run(run.id).status == "waiting"
    assert platform.statuses() == ["in_transit"] * 2 + ["requested"] * 3
    assert len(platform.transfers()) == len(platform.banks()) == 2
    # Nobody was refused, and nothing was sent that could have been.
    assert outcomes(platform) == LANDED
    books = platform.books()
    assert balanced(books)
    assert (books["usd"].held, books["usd"].connected) == (50_000, 20_000)
    platform.stand.top_up(25_000)
    platform.drain()
    result = ended(platform, run.id)
    assert (result["waitingForFunds"], result["failureCount"]) == ({}, 0)
    assert platform.statuses() == ["in_transit"] * 5
    assert outcomes(platform) == LANDED
    assert [key.rpartition("-")[2] for key, _, _ in platform.attempts()] == ["1"] * 10
    platform.check()
    assert platform.settle()["moved"] == 5
    platform.check()


def test_nobody_is_passed_by_a_smaller_payout_of_the_same_currency(platform: Platform) -> None:
    creators(platform, 10_000, 40_000, 3_000)
    creators(platform, 7_000, 8_000, currency="eur")
    platform.stand.top_up(20_000)
    platform.stand.top_up(15_000, "eur")
    dispatch("process-payouts", PAY_DAY)
    platform.work()
    there = {payout.creator_id: payout.status for payout in platform.payouts()}
    assert there == {
        "usd0": "in_transit",
        "usd1": "requested",
        "usd2": "requested",
        "eur0": "in_transit",
        "eur1": "in_transit",
    }
    platform.stand.top_up(33_000)
    platform.drain()
    assert set(platform.statuses()) == {"in_transit"}
    platform.check()


def test_two_pay_days_do_not_spend_one_balance_twice(anywhere: Platform) -> None:
    """Each looks at the balance before the other has sent: what is too much is not refused away."""
    creators(anywhere, *[10_000] * 6)
    anywhere.stand.top_up(30_000)
    runs = [dispatch("process-payouts", {"payoutDate": f"2025-01-{day}"}) for day in (15, 16)]
    for number in range(6):
        id_ = f"usd{number}"
        payload = {"payoutId": f"m{number}", "creatorId": id_, "amount": 3_000}
        dispatch("process-single-payout", payload | {"stripeAccountId": f"acct_{id_}"})
    anywhere.work_at_once(8)
    go_on(anywhere, timedelta(hours=1))
    assert sum(one["amount"] for one in anywhere.transfers()) <= 30_000
    assert {code for _, code in outcomes(anywhere)} <= {None, "balance_insufficient"}
    anywhere.stand.top_up(30_000)
    anywhere.drain()
    for run in runs:
        ended(anywhere, run.id)
    assert set(anywhere.statuses()) == {"in_transit"}
    assert sum(one["amount"] for one in anywhere.transfers()) == 60_000
    anywhere.check()


def test_without_a_top_up_it_ends_and_the_daily_retry_goes_on(platform: Platform) -> None:
    creators(platform, *[10_000] * 3)
    platform.stand.top_up(10_000)
    run = dispatch("process-payouts", PAY_DAY)
    platform.drain()
    result = ended(platform, run.id)
    assert result["waitingForFunds"] == {"usd": 20_000}
    assert result["ledgerBalanced"] is True
    assert platform.statuses() == ["in_transit", "requested", "requested"]
    assert platform.books()["usd"].held == 30_000
    platform.stand.top_up(20_000)
    platform.now += READY_STALE
    assert platform.result("retry-failed-payouts")["retried"] == 2
    assert platform.statuses() == ["in_transit"] * 3
    assert outcomes(platform) == LANDED
    platform.check()

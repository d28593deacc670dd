"""The second leg: from a creator's Stripe account to the bank, failing and tried for itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from app.platform.payouts.models import Payout
from app.switchyard.dispatch import dispatch
from tests.support.platform import MANUAL, Platform

BANK = "/v1/payouts"
FIRST, SECOND = "payout_123~bank-1", "payout_123~bank-2"


# The bank's answers


def test_what_the_bank_sends_back_once_paid_is_paid_again(platform: Platform) -> None:
    platform.creator()
    platform.fault("bank_turns", next=2)
    platform.paid()
    booked = [("hold", 10_000), ("transfer", 10_000), ("settle", 10_000)]
    for turn in (1, 2):
        platform.settle()
        platform.check()
        assert (platform.statuses(), platform.entries()) == (["paid"], booked)
        platform.settle()
        platform.check()
        booked.append(("return", 10_000))
        assert (platform.statuses(), platform.entries()) == (["bank_failed"], booked)
        assert platform.again() == {"retried": 1, "left": {}}
        assert len(platform.attempts("bank")) == turn + 1
        booked.append(("settle", 10_000))
    assert len(platform.transfers()) == 1


def test_an_instant_payout_is_sent_to_stripe(platform: Platform) -> None:
    platform.creator()
    platform.paid(method="instant")
    platform.paid(payoutId="slow", amount=5_000)
    made = platform.stand.all("payout")
    assert [(one["amount"], one["method"]) for one in made] == [
        (10_000, "instant"),
        (5_000, "standard"),
    ]
    platform.now += timedelta(hours=1)
    platform.result("reconcile-payouts")
    assert platform.statuses() == ["paid", "in_transit"]
    platform.check()


@pytest.mark.parametrize(
    ("code", "method"),
    [
        ("instant_payouts_unsupported", "standard"),
        ("instant_payouts_config_disabled", "standard"),
        ("instant_payouts_currency_disabled", "standard"),
        ("instant_payouts_limit_exceeded", "instant"),  # a day's, and another day comes
    ],
)
def test_why_it_cannot_be_instant_decides_how_it_goes_next(
    platform: Platform, code: str, method: str
) -> None:
    platform.creator()
    platform.fault("refuse", path="/v1/payouts", next=1, code=code)
    done = platform.paid(method="instant")
    assert (done["status"], done["reason"]) == ("bank_failed", code)
    assert platform.again()["retried"] == 1
    (made,) = platform.stand.all("payout")
    assert made["method"] == method
    platform.check()


def test_stripes_own_schedule_needs_no_bank_payout_of_ours(platform: Platform) -> None:
    platform.creator(manual_payouts=False)
    assert platform.paid()["status"] == "paid"
    assert platform.attempts("bank") == []
    assert platform.entries() == [(kind, 10_000) for kind in ("hold", "transfer", "settle")]
    platform.check()


# Outcomes that are not known


def test_two_bank_payouts_of_one_attempt_stop_for_a_person(platform: Platform) -> None:
    platform.creator()
    platform.fault("timeout_after_effect", path=BANK)
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.stand.top_up(10_000, account="acct_ana")
    named = {"payout_id": "payout_123", "attempt": FIRST}
    given = {"amount": 10_000, "currency": "usd", "metadata": named}
    platform.runtime.engine.gateways.stripe.create_payout("acct_ana", given, "by-hand")
    platform.later(timedelta(hours=25))
    platform.drain()
    assert "more than one bank payout" in platform.run(run.id).error
    assert platform.statuses() == ["paying"]
    found = [(one.kind, one.payout_id) for one in platform.reconciled()]
    assert found == [("bank_not_in_ledger", "payout_123"), ("paid_twice", "payout_123")]


# What the database itself keeps


def test_a_payouts_money_and_its_way_are_pinned(anywhere: Platform) -> None:
    anywhere.creator()
    anywhere.creator("bob")
    anywhere.paid()
    before = anywhere.payouts()
    for values in (
        {"amount": 10_001},
        {"destination": "acct_bob"},
        {"creator_id": "bob"},
        {"currency": "eur"},
        {"amount": 1, "status": "failed"},
    ):
        with pytest.raises(DBAPIError, match="never deleted"), anywhere.db.begin() as tx:
            tx.execute(update(Payout).values(**values))
    with pytest.raises(DBAPIError, match="never deleted"), anywhere.db.begin() as tx:
        tx.execute(delete(Payout))
    assert anywhere.payouts() == before
    with anywhere.db.begin() as tx:
        tx.execute(update(Payout).values(reason="looked at", amount=10_000))
    assert anywhere.payouts()[0].reason == "looked at"


def test_an_earlier_one_that_came_back_is_not_taken_for_a_later_one(platform: Platform) -> None:
    """The second attempt is looked up after its window, and the list has the first one's payout."""
    platform.creator()
    platform.fault("bank_fails")
    platform.paid()
    platform.settle()
    platform.fault("drop_before", path=BANK, probability=1)
    platform.now += timedelta(minutes=1)
    dispatch("retry-failed-payouts", {})
    platform.work()
    assert platform.attempts("bank") == [(FIRST, "landed", None), (SECOND, "unknown", None)]
    platform.stand.forgive()
    platform.later(timedelta(hours=25))
    platform.drain()
    outcomes = [(outcome, code) for _, outcome, code in platform.attempts("bank")]
    assert outcomes == [("landed", None), ("refused", "key_expired"), ("landed", None)]
    assert platform.statuses() == ["in_transit"]
    platform.check()


def test_one_cancelled_at_stripe_came_back(platform: Platform) -> None:
    platform.creator()
    bank_id = platform.paid()["bankPayoutId"]
    platform.call(f"payouts/{bank_id}/cancel", "acct_ana")
    assert platform.result("reconcile-payouts")["moved"] == 1
    assert platform.payouts()[0].reason == "canceled"
    assert platform.statuses() == ["bank_failed"]
    platform.check()
    assert platform.again() == {"retried": 1, "left": {}}
    assert platform.statuses() == ["in_transit"]
    platform.check()

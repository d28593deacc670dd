"""The second leg: from a creator's Stripe account to the bank, failing and tried for itself."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from app.platform.payouts import bank
from app.platform.payouts.models import Payout
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.relay import sweep
from tests.support.platform import AT_THE_BANK, MANUAL, Platform, platform

__all__ = ["platform"]
BANK = "/v1/payouts"
FIRST, SECOND = "payout_123~bank-1", "payout_123~bank-2"
ONCE = [(FIRST, "landed", None)]
PAID = [("hold", 10_000), ("transfer", 10_000), ("settle", 10_000)]


def check_one(platform: Platform, status: str) -> None:
    """One transfer ever, one live bank payout, and the money where `status` says."""
    assert platform.statuses() == [status]
    assert len(platform.transfers()) == 1
    assert platform.attempts("transfer") == [("payout_123-1", "landed", None)]
    books = platform.books()["usd"]
    there = 0 if status == "paid" else 10_000
    assert (books.owed, books.held, books.connected, books.cash) == (40_000, there, there, 40_000)
    assert len(platform.banks()) == int(status in ("in_transit", "paid"))
    platform.check()


# The bank's answers


def test_what_the_bank_refuses_is_sent_to_it_again_and_only_that(platform: Platform) -> None:
    platform.creator()
    platform.fault("bank_fails", code="no_account")
    first = platform.paid()["bankPayoutId"]
    platform.settle()
    (payout,) = platform.payouts()
    assert (payout.reason, payout.settled_at) == ("no_account", platform.now)
    check_one(platform, "bank_failed")
    assert platform.again() == {"retried": 1, "left": {}}
    check_one(platform, "in_transit")
    assert platform.attempts("bank") == [(FIRST, "landed", None), (SECOND, "landed", None)]
    (payout,) = platform.payouts()
    assert payout.bank_payout_id == platform.banks()[0].id != first
    assert (payout.reason, payout.settled_at) == (None, None)
    platform.settle()
    check_one(platform, "paid")
    assert platform.entries() == PAID
    assert platform.again() == {"retried": 0, "left": {}}


def test_what_the_bank_sends_back_once_paid_is_paid_again(platform: Platform) -> None:
    platform.creator()
    platform.fault("bank_turns", next=2)
    platform.paid()
    booked = PAID
    for turn in (1, 2):
        platform.settle()
        check_one(platform, "paid")
        assert platform.entries() == booked
        platform.settle()
        assert platform.entries() == [*booked, ("return", 10_000)]
        check_one(platform, "bank_failed")
        assert platform.payouts()[0].reason == "account_closed"
        assert platform.again() == {"retried": 1, "left": {}}
        check_one(platform, "in_transit")
        assert len(platform.attempts("bank")) == turn + 1
        booked = [*booked, ("return", 10_000), ("settle", 10_000)]
    platform.settle()
    check_one(platform, "paid")
    assert platform.entries() == booked
    assert len({bank["id"] for bank in platform.admin("GET", "transfers")["payouts"]}) == 3


def test_one_cancelled_at_stripe_came_back(platform: Platform) -> None:
    platform.creator()
    bank_id = platform.paid()["bankPayoutId"]
    platform.call(f"payouts/{bank_id}/cancel", "acct_ana")
    assert platform.result("reconcile-payouts")["moved"] == 1
    assert platform.payouts()[0].reason == "canceled"
    check_one(platform, "bank_failed")
    assert platform.again() == {"retried": 1, "left": {}}
    check_one(platform, "in_transit")


def test_an_instant_payout_is_sent_to_stripe(platform: Platform) -> None:
    platform.creator()
    platform.paid(method="instant")
    platform.paid(payoutId="slow", amount=5_000)
    made = platform.admin("GET", "transfers")["payouts"]
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
    (made,) = platform.admin("GET", "transfers")["payouts"]
    assert made["method"] == method
    platform.check()


def test_stripes_own_schedule_needs_no_bank_payout_of_ours(platform: Platform) -> None:
    platform.creator(manual_payouts=False)
    platform.creator(id="bob", stripe_account_id="acct_bob", owed=20_000)
    platform.fault("timeout_after_effect", path="/v1/transfers", next=2)
    result = platform.pay_day()
    assert {row["status"]: row["amount"] for row in result["totals"]} == {
        "paid": 50_000,
        "in_transit": 20_000,
    }
    assert platform.attempts("bank") == [("2025-01-15:bob:usd~bank-1", "landed", None)]
    mine = [(kind, 50_000) for kind in ("hold", "transfer", "settle")]
    assert platform.entries("2025-01-15:ana:usd") == mine
    (ana, _) = platform.payouts()
    assert (ana.bank_payout_id, ana.settled_at is None) == (None, False)
    platform.check()
    assert platform.settle()["moved"] == 1
    assert platform.statuses() == ["paid", "paid"]
    platform.check()


# Outcomes that are not known


@pytest.mark.parametrize(
    ("fate", "status"),
    [(None, "paid"), ("bank_fails", "bank_failed"), ("bank_turns", "bank_failed")],
)
def test_a_key_past_its_window_is_looked_up_and_never_sent_again(
    platform: Platform, fate: str | None, status: str
) -> None:
    platform.creator()
    if fate is not None:
        platform.fault(fate)
    platform.fault("timeout_after_effect", path=BANK)
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.now += 2 * AT_THE_BANK
    sweep(platform.runtime.store)
    gateway = platform.failing()
    platform.drain()
    assert gateway.keys == []
    assert platform.attempts("bank") == ONCE
    assert json.loads(platform.run(run.id).result)["status"] == status
    check_one(platform, status)


def test_an_earlier_one_that_came_back_is_not_taken_for_a_later_one(platform: Platform) -> None:
    """Past its window the second attempt is looked up, and the first one's payout is there too."""
    platform.creator()
    platform.fault("bank_fails")
    platform.paid()
    platform.settle()
    platform.fault("drop_before", path=BANK, probability=1)
    platform.now += timedelta(minutes=1)
    dispatch("retry-failed-payouts", {})
    platform.work()
    assert platform.attempts("bank") == [(FIRST, "landed", None), (SECOND, "unknown", None)]
    platform.admin("DELETE", "faults")
    platform.now += timedelta(hours=25)
    sweep(platform.runtime.store)
    platform.drain()
    outcomes = [(outcome, code) for _, outcome, code in platform.attempts("bank")]
    assert outcomes == [("landed", None), ("refused", "key_expired"), ("landed", None)]
    check_one(platform, "in_transit")


def test_two_bank_payouts_of_one_attempt_stop_for_a_person(platform: Platform) -> None:
    platform.creator()
    platform.fault("timeout_after_effect", path=BANK)
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.admin("POST", "topup", {"amount": 10_000, "account": "acct_ana"})
    named = {"payout_id": "payout_123", "attempt": FIRST}
    given = {"amount": 10_000, "currency": "usd", "metadata": named}
    platform.runtime.engine.gateways.stripe.create_payout("acct_ana", given, "by-hand")
    platform.now += timedelta(hours=25)
    sweep(platform.runtime.store)
    platform.drain()
    assert "more than one bank payout" in platform.run(run.id).error
    assert platform.statuses() == ["paying"]
    (found,) = platform.reconciled()
    assert (found.kind, found.payout_id) == ("paid_twice", "payout_123")


# Words that were lost


def test_what_no_webhook_said_is_looked_up_page_by_page(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "PAGE_SIZE", 4)
    platform.seed(15, 12)
    platform.fault("bank_fails", next=3)
    platform.fault("bank_turns", next=2)
    platform.pay_day()
    told = platform.settle()
    assert (told["moved"], told["ok"]) == (12, True)
    assert sorted(platform.statuses()) == ["bank_failed"] * 3 + ["paid"] * 9
    told = platform.settle()
    assert (told["moved"], told["ok"]) == (2, True)
    assert sorted(platform.statuses()) == ["bank_failed"] * 5 + ["paid"] * 7
    platform.check()
    assert platform.again() == {"retried": 5, "left": {}}
    platform.settle()
    assert platform.statuses() == ["paid"] * 12
    assert len(platform.transfers()) == 12
    platform.check()


# What the database itself keeps


def test_a_payouts_money_and_its_way_are_pinned(platform: Platform) -> None:
    platform.creator()
    platform.creator(id="bob", stripe_account_id="acct_bob")
    platform.paid()
    before = platform.payouts()
    for values in (
        {"amount": 10_001},
        {"destination": "acct_bob"},
        {"creator_id": "bob"},
        {"currency": "eur"},
        {"amount": 1, "status": "failed"},
    ):
        with pytest.raises(DBAPIError, match="never deleted"), platform.db.begin() as tx:
            tx.execute(update(Payout).values(**values))
    with pytest.raises(DBAPIError, match="never deleted"), platform.db.begin() as tx:
        tx.execute(delete(Payout))
    assert platform.payouts() == before
    with platform.db.begin() as tx:
        tx.execute(update(Payout).values(reason="looked at", amount=10_000))
    assert platform.payouts()[0].reason == "looked at"

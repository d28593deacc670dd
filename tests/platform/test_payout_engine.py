"""Payouts from the plan to the books, with Stripe's real client against the stand-in."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Earning, EarningKind
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import StripeUnknownOutcome
from app.platform.payouts import engine
from app.platform.payouts.attempts import apply
from app.platform.payouts.eligibility import HOLDING
from app.platform.payouts.engine import GIVE_UP_AFTER, SERVER_ERROR_STANDS
from app.platform.payouts.legs import BANK, TRANSFER, Change, Leg
from app.platform.payouts.models import MOVES, Payout, PayoutStatus
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import KeyConflict, PayloadInvalid
from app.switchyard.runs.models import StepRow
from tests.support.earnings import Sale
from tests.support.platform import MANUAL, START, Platform
from tests.support.stripe_stand import pay

ONCE = [("payout_123-1", "landed", None), ("payout_123~bank-1", "landed", None)]


# One payout


def test_a_manual_payout_is_requested_and_paid(platform: Platform) -> None:
    platform.creator()
    done = platform.paid()
    (transfer,), (bank,) = platform.transfers(), platform.banks()
    assert done == {
        "payoutId": "payout_123",
        "status": "in_transit",
        "reason": None,
        "transferId": transfer["id"],
        "bankPayoutId": bank.id,
    }
    assert (transfer["amount"], transfer["currency"]) == (10_000, "usd")
    assert transfer["metadata"] == {"payout_id": "payout_123", "creator_id": "ana"}
    assert (bank.amount, bank.currency) == (10_000, "usd")
    assert bank.metadata == {"payout_id": "payout_123", "attempt": "payout_123~bank-1"}
    (payout,) = platform.payouts()
    columns = (payout.transfer_id, payout.bank_payout_id, payout.payout_date, payout.settled_at)
    assert columns == (transfer["id"], bank.id, None, None)
    assert platform.attempts() == ONCE
    assert platform.owed() == 40_000
    platform.check()
    again = dispatch("process-single-payout", MANUAL)
    assert not again.created
    platform.drain()
    platform.check()
    assert platform.settle()["moved"] == 1
    (payout,) = platform.payouts()
    assert (payout.status, payout.settled_at) == ("paid", platform.now)
    books = platform.books()["usd"]
    assert (books.owed, books.held, books.cash, books.connected) == (40_000, 0, 40_000, 0)
    platform.check()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"creatorId": "eve"}, "no creator 'eve'"),
        ({"stripeAccountId": "acct_eve"}, "'acct_eve' is not creator ana's account"),
        ({"amount": 50_001}, "50001 usd wanted but 50000 payable now"),
        ({"currency": "eur"}, "10000 eur wanted but 0 payable now"),
        ({"creatorId": "bob", "stripeAccountId": "acct_bob"}, "left out: account_disabled"),
    ],
)
def test_a_manual_payout_that_does_not_fit_writes_nothing(
    platform: Platform, change: dict[str, Any], error: str
) -> None:
    platform.creator()
    platform.creator("bob", disabled_reason="under_review")
    run = platform.single(**change)
    assert run.status == "failed"
    assert error in run.error
    assert platform.payouts() == platform.attempts() == platform.transfers() == []
    assert platform.owed() == 50_000
    assert platform.db.rows(select(StepRow.attempts)) == [(1,)]


def test_an_order_must_match_the_known_payout(platform: Platform) -> None:
    platform.creator()
    platform.creator("bob")
    platform.paid()
    other = {"amount": 10_001, "creatorId": "bob", "stripeAccountId": "acct_bob", "currency": "eur"}
    for field, value in other.items():
        with pytest.raises(KeyConflict):
            dispatch("process-single-payout", {**MANUAL, field: value})
        run = dispatch("process-single-payout", {**MANUAL, field: value}, key=f"by hand: {field}")
        platform.drain()
        ended = platform.run(run.id)
        assert ended.status == "failed"
        assert "payout_123 has" in ended.error
    platform.check()


def test_payloads_that_cannot_be_paid_are_refused_at_the_door(platform: Platform) -> None:
    wrong: dict[str, list[object]] = {
        "amount": [0, -1, 1.5, "100", True, 10**12],
        "payoutId": ["", "ü", "p" * 241],
        "currency": ["USD"],
        "speed": ["instant"],
    }
    for field, value in ((field, value) for field, values in wrong.items() for value in values):
        with pytest.raises(PayloadInvalid):
            dispatch("process-single-payout", {**MANUAL, field: value})


def test_a_new_500_is_no_replay_however_late_it_comes(platform: Platform) -> None:
    """A call that Stripe failed at just now may still take effect: its list proves nothing yet."""
    platform.creator()
    lost, broken = StripeUnknownOutcome("lost"), StripeUnknownOutcome("broken")
    keys = platform.failing((False, lost), (False, broken))
    dispatch("process-single-payout", MANUAL)
    platform.work()
    platform.later(2 * SERVER_ERROR_STANDS)
    platform.work()
    assert keys == ["payout_123-1"] * 2
    assert platform.attempts() == [("payout_123-1", "unknown", None)]
    platform.drain()
    assert set(keys) == {"payout_123-1", "payout_123~bank-1"}
    assert platform.attempts() == ONCE
    platform.check()


def test_a_wrong_api_key_is_nobodys_refusal(platform: Platform) -> None:
    platform.creator()
    platform.use(StripeGateway("rk_live_wrong", platform.stand.url))
    run = platform.single()
    assert run.status == "failed"
    assert "StripeMisconfigured" in run.error
    assert platform.attempts() == [("payout_123-1", "sending", None)]
    platform.engine = platform.runtime.engine
    dispatch("process-single-payout", MANUAL, key="again")
    platform.drain()
    assert platform.attempts() == ONCE
    platform.check()


def test_a_strange_transfer_in_the_group_stops_for_a_person(platform: Platform) -> None:
    platform.creator()
    platform.fault("drop_before")
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    stripe = platform.runtime.engine.gateways.stripe
    pay(stripe, "by-hand", amount=1, destination="acct_ana", transfer_group="payout_123")
    platform.later(timedelta(hours=25))
    (outcome,) = platform.work()
    assert "not the transfer it should have" in str(outcome.error or platform.run(run.id).error)
    platform.drain()
    assert platform.run(run.id).status == "failed"
    assert platform.statuses() == ["sending"]
    assert platform.books()["usd"].held == 10_000
    assert len(platform.transfers()) == 1
    assert platform.banks() == []


def test_runs_of_one_payout_at_once_pay_it_once(anywhere: Platform) -> None:
    anywhere.creator()
    runs = [dispatch("process-single-payout", MANUAL, key=f"k{n}") for n in range(4)]
    anywhere.work_at_once(4)
    anywhere.drain()
    ended = [anywhere.run(run.id) for run in runs]
    assert {run.status for run in ended} == {"succeeded"}
    assert len({run.result for run in ended}) == 1
    assert anywhere.attempts() == ONCE
    anywhere.check()


def test_payouts_move_only_as_allowed() -> None:
    leg: Leg
    for leg, old in ((leg, old) for leg in (TRANSFER, BANK) for old in PayoutStatus):
        for new in set(PayoutStatus) - MOVES[old]:
            moves = [(Payout(id="p", status=old), Change(new))]
            with Session() as tx, pytest.raises(ValueError, match="does not go"):
                apply(tx, moves, leg, START)


# The pay day


def test_a_pay_day_without_stripe_gives_its_pages_up_and_pays_once_it_is_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PAGE_SIZE", 50)
    platform.seed(60, 55)
    platform.fault("drop_before", probability=1)
    run = dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.work()
    pages = select(StepRow.result).where(StepRow.name.like("transfer-0-%")).order_by(StepRow.name)
    first = [json.loads(page.result) for page in platform.db.rows(pages)]
    assert [(page["landed"], page["refused"], page["open"]) for page in first] == [
        (0, 0, 50),
        (0, 0, 5),
    ]
    # On record before they were sent; most of the full page was never sent at all.
    attempts = platform.attempts()
    assert len(attempts) == 55
    unknown = sum(outcome == "unknown" for _, outcome, _ in attempts[:50])
    assert GIVE_UP_AFTER <= unknown < 50
    assert unknown + sum(outcome == "sending" for _, outcome, _ in attempts[:50]) == 50
    assert platform.run(run.id).status == "waiting"
    platform.stand.forgive()
    platform.drain()
    assert platform.run(run.id).status == "succeeded"
    assert platform.statuses() == ["in_transit"] * 55
    # Every one by the key it had from the first.
    assert {key.rpartition("-")[2] for key, _, _ in platform.attempts()} == {"1"}
    platform.check()


@pytest.mark.parametrize("how", ["pay day", "by hand", "retry"])
def test_what_another_program_wrote_is_posted_before_anybody_is_paid(
    platform: Platform, how: str
) -> None:
    platform.creator()
    if how == "retry":
        platform.fault("refuse", code="transfers_not_allowed")
        platform.paid(amount=50_000)
        platform.paid(payoutId="another", amount=5_000)
    sale = Sale("s1", "ana", "tips", "usd", 5_000, 0, START - HOLDING)
    with platform.db.begin() as tx:
        tx.execute(insert(Earning), [{**asdict(sale), "kind": EarningKind.EARNING}])
    platform.stand.top_up(5_000)
    if how == "retry":
        assert platform.again() == {"retried": 1, "left": {}}
    else:
        platform.pay_day() if how == "pay day" else platform.paid(amount=55_000)
    assert sum(payout.amount for payout in platform.payouts()) == 55_000
    assert set(platform.statuses()) == {"in_transit"}
    platform.check()


def test_a_rate_limit_waits_as_long_as_stripe_asks(platform: Platform) -> None:
    platform.creator()
    platform.fault("429", retry_after=77)
    platform.fault("429")
    run = dispatch("process-single-payout", MANUAL)
    (first,) = platform.work()
    assert (first.end, first.due_at) == ("retry", START + timedelta(seconds=77))
    assert platform.attempts() == [("payout_123-1", "sending", None)]
    platform.later(first.due_at - platform.now)
    (second,) = platform.work()
    assert 5 <= (second.due_at - platform.now).total_seconds() < 15
    platform.drain()
    assert platform.run(run.id).status == "succeeded"
    assert platform.attempts() == ONCE
    platform.check()

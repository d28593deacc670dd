"""What Stripe's webhooks say of bank payouts and reversals: doubled, late, and out of order."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.platform.payouts import retry
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from tests.support.platform import AT_THE_BANK, HOOK, MANUAL, SECRET, Platform
from tests.support.serving import serve_in_thread
from tests.support.waiting import until

BANK = "/v1/payouts"
PAID = [("hold", 10_000), ("transfer", 10_000), ("settle", 10_000)]


def results(platform: Platform) -> list[dict[str, Any]]:
    """What came of each event, by its number."""
    chosen = select(RunRow.result).where(RunRow.job == "handle-stripe-event").order_by(RunRow.key)
    return [json.loads(row.result or "null") for row in platform.db.rows(chosen)]


def errors(platform: Platform) -> list[str | None]:
    """For each event, what a person must look at."""
    return [result["error"] for result in results(platform)]


# Bank payouts


def test_a_word_of_one_that_is_being_recorded_waits_for_the_record(platform: Platform) -> None:
    platform.creator()
    platform.fault("timeout_after_effect", path=BANK)
    run = dispatch("process-single-payout", MANUAL)
    platform.work()
    assert platform.statuses() == ["paying"]
    (made,) = platform.banks()
    platform.stand.ahead += AT_THE_BANK
    platform.event("payout.paid", made.id, "acct_ana")
    (outcome,) = platform.work()
    assert outcome.end == "retry"
    assert (outcome.due_at - platform.now) == timedelta(seconds=15)
    platform.drain()
    assert platform.run(run.id).status == "succeeded"
    assert platform.statuses() == ["paid"]
    assert errors(platform) == [None]
    assert platform.entries() == PAID
    platform.check()


def test_from_the_bank_to_the_books_by_stripes_own_sender(platform: Platform) -> None:
    """The events come over HTTP, one of them twice more and late."""
    platform.creator()
    with serve_in_thread(platform.app) as url:
        platform.stand.sender.aim(url + HOOK, SECRET, ["payout.paid", "payout.failed"])
        platform.fault("bank_turns", path=BANK)
        bank_id = platform.paid()["bankPayoutId"]
        platform.now += 2 * AT_THE_BANK
        until(lambda: len(results(platform)) == 2)
        platform.drain()
    for _ in range(2):
        platform.event("payout.paid", bank_id, "acct_ana")
    platform.drain()
    assert platform.statuses() == ["bank_failed"]
    assert [one["type"] for one in results(platform)].count("payout.failed") == 1
    assert errors(platform) == [None, None, None]
    platform.check()


# Reversals


def left_on_the_account(platform: Platform) -> str:
    """A transfer whose bank payout was refused; its id."""
    platform.creator()
    platform.fault("refuse", path=BANK, code="account_closed")
    return str(platform.paid()["transferId"])


def test_parts_of_a_reversal_add_up(platform: Platform) -> None:
    transfer_id = left_on_the_account(platform)
    platform.reverse(transfer_id, 4_000)
    platform.event("transfer.reversed", transfer_id, None, 1)
    platform.drain()
    (error,) = errors(platform)
    assert error == "4000 of 10000 reversed while bank_failed: a person must look"
    assert platform.statuses() == ["bank_failed"]
    books = platform.books()["usd"]
    assert (books.owed, books.held, books.connected, books.cash) == (40_000, 10_000, 6_000, 44_000)
    assert [one.kind for one in platform.reconciled()] == ["reversed"]
    platform.reverse(transfer_id, 6_000)
    for n in (2, 2, 3):  # one doubled, and one that says the same
        platform.event("transfer.reversed", transfer_id, None, n)
    platform.drain()
    assert platform.statuses() == ["reversed"]
    assert errors(platform)[1:] == [None, None]
    kinds = ["hold", "transfer", "reversal", "reversal", "release"]
    assert [kind for kind, _ in platform.entries()] == kinds
    platform.check()


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("amount", [3_000, 10_000])
def test_a_reversal_after_it_left_for_the_bank_is_for_a_person(
    platform: Platform, settled: bool, amount: int
) -> None:
    platform.creator()
    transfer_id = platform.paid()["transferId"]
    if settled:
        platform.settle()
    status = "paid" if settled else "in_transit"
    # The creator earned elsewhere, too: Stripe has something to take back.
    platform.stand.top_up(amount, account="acct_ana")
    platform.reverse(transfer_id, amount)
    for n in (1, 2):
        platform.event("transfer.reversed", transfer_id, None, n)
    platform.drain()
    part = "" if amount == 10_000 else "3000 of 10000 "
    assert errors(platform) == [f"{part}reversed while {status}: a person must look"] * 2
    assert platform.statuses() == [status]
    # The cash is there again, once, and the books say so; whose it is a person decides.
    assert platform.books()["usd"].cash == 40_000 + amount
    assert [one.kind for one in platform.reconciled()] == ["reversed"]
    assert platform.entries().count(("reversal", amount)) == 1


def test_a_reversal_while_a_retry_waits_is_not_paid_out(platform: Platform) -> None:
    transfer_id = left_on_the_account(platform)
    platform.reverse(transfer_id, 10_000)
    with platform.db.session() as tx:
        retry.reopen(tx, "a run that died", "", platform.now)
    assert platform.statuses() == ["transferred"]
    platform.event("transfer.reversed", transfer_id, None)
    platform.drain()
    assert platform.statuses() == ["reversed"]
    platform.now += retry.READY_STALE
    assert platform.again()["retried"] == 0
    assert platform.banks() == []
    platform.check()

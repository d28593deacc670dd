"""The jobs around paying retry failed payouts, and bring creators' accounts up to date.

Every retry ends with Platform.check(): the books hold and nobody was paid twice.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, or_, select

from app.local.seed import stripe_accounts
from app.platform.earnings.models import Creator
from app.platform.ledger.postings import CASH, EntryKind, Posting, post
from app.platform.payouts.accounts import NOT_AT_STRIPE
from app.platform.payouts.retry import MAX_ATTEMPTS, READY_STALE
from app.switchyard.dispatch import dispatch
from tests.support.earnings import a_creator
from tests.support.platform import MANUAL, START, Platform

MAY_PASS = "transfers_not_allowed"
"""A refusal whose cause can end."""


def failed(platform: Platform, code: str = MAY_PASS, **change: Any) -> None:
    platform.fault("refuse", code=code)
    done = platform.paid(**change)
    assert (done["status"], done["reason"]) == ("failed", code)


def took(count: int, **left: int) -> dict[str, Any]:
    return {"retried": count, "left": left}


def earned(platform: Platform, amount: int) -> None:
    ref = f"more-{platform.now.isoformat()}"
    with platform.db.begin() as tx:
        entry = Posting(EntryKind.EARNING, ref, CASH, "creator:ana", "usd", amount, START)
        post(tx, [entry])
    platform.stand.top_up(amount, "usd")


# Payouts tried again


def test_what_is_final_is_listed_by_its_reason(platform: Platform) -> None:
    platform.creator()
    for code in ("account_invalid", "amount_too_large", "invalid_request"):
        failed(platform, code, payoutId=code)
    assert platform.again() == took(0, account_invalid=1, amount_too_large=1, invalid_request=1)
    assert platform.statuses() == ["failed"] * 3
    platform.check()


def test_only_what_the_balance_covers_is_requested_again(platform: Platform) -> None:
    platform.creator()
    for number, amount in enumerate((30_000, 25_000, 20_000)):
        failed(platform, payoutId=f"p{number}", amount=amount)
    assert platform.again() == took(2, balance_too_low=1)
    assert platform.statuses() == ["in_transit", "failed", "in_transit"]
    assert platform.owed() == 0
    platform.check()


def test_what_waits_for_a_top_up_is_never_used_up(platform: Platform) -> None:
    """A refusal for the platform's own lack of money is not one of the payout's five tries."""
    platform.creator()
    platform.fault("refuse", next=20)
    run = dispatch("process-single-payout", MANUAL)
    platform.drain()
    assert json.loads(platform.run(run.id).result)["status"] == "requested"
    assert len(platform.attempts()) > MAX_ATTEMPTS
    assert platform.books()["usd"].held == 10_000
    platform.stand.forgive()
    platform.now += READY_STALE
    assert platform.again() == took(1)
    assert platform.statuses() == ["in_transit"]
    platform.check()


# The creators' accounts


def synced(platform: Platform) -> dict[str, Any]:
    return platform.result("update-account-statuses")


def state(platform: Platform, creator: str) -> tuple[Any, ...]:
    C = Creator
    columns = (C.payouts_enabled, C.transfers_active, C.disabled_reason)
    whose = or_(C.id == creator, C.stripe_account_id == creator)
    (row,) = platform.db.rows(select(*columns).where(whose))
    return tuple(row)


def test_accounts_are_brought_up_to_date(platform: Platform) -> None:
    platform.seed(130, 100)
    same = synced(platform)
    assert (same["changed"], same["gone"]) == (0, 0)
    with platform.db.begin() as tx:
        rows = stripe_accounts(tx)
    shut = {"transfers": "inactive", "payouts_enabled": False, "disabled_reason": "under_review"}
    changed = [row | shut for row in rows[:3]] + [
        row | {"transfers": "pending"} for row in rows[3:5]
    ]
    assert same["accounts"] == len(rows) > 100
    platform.stand.set_accounts(*changed)
    found = synced(platform)
    assert found["changed"] >= 3
    assert state(platform, rows[0]["id"]) == (False, False, "under_review")
    assert state(platform, rows[3]["id"])[1] is False
    assert synced(platform)["changed"] == 0
    platform.stand.set_accounts(*rows)
    assert synced(platform)["changed"] == found["changed"]


@pytest.mark.parametrize("code", ["account_invalid", "resource_missing"])
def test_an_account_stripe_does_not_know_is_disabled(platform: Platform, code: str) -> None:
    missing = {"method": "GET", "path": "/v1/accounts/acct_eve", "code": code}
    platform.fault("refuse", **missing, probability=1.0)
    platform.creator()
    eve = a_creator("eve")
    nobody = a_creator("nobody", stripe_account_id=None)
    with platform.db.begin() as tx:
        tx.execute(insert(Creator), [eve, nobody])
    assert synced(platform) == {"accounts": 2, "changed": 1, "gone": 1}
    assert state(platform, "eve") == (False, False, NOT_AT_STRIPE)
    assert state(platform, "ana") == state(platform, "nobody") == (True, True, None)
    assert synced(platform) == {"accounts": 2, "changed": 0, "gone": 1}
    # It is back, and with it what may be paid.
    platform.stand.set_accounts({"id": "acct_eve"})
    assert synced(platform) == {"accounts": 2, "changed": 1, "gone": 0}
    assert state(platform, "eve") == (True, True, None)


@pytest.mark.parametrize("account", ["", "a/b"])
def test_what_is_no_id_of_stripe_s_is_no_other_call(platform: Platform, account: str) -> None:
    """In a URL it is another path, and the refusal of that one ended the update of all accounts."""
    platform.creator()
    with platform.db.begin() as tx:
        tx.execute(insert(Creator), [a_creator("eve", stripe_account_id=account)])
    assert synced(platform) == {"accounts": 2, "changed": 1, "gone": 1}
    assert state(platform, "eve") == (False, False, NOT_AT_STRIPE)


def test_another_platform_s_key_disables_nobody(platform: Platform) -> None:
    rows = [a_creator(f"c{n}", stripe_account_id=f"acct_{n}") for n in range(3)]
    with platform.db.begin() as tx:
        tx.execute(insert(Creator), rows)
    run = dispatch("update-account-statuses", {})
    platform.drain()
    assert "Stripe lists none of the 3 accounts" in platform.run(run.id).error
    platform.stand.set_accounts({"id": "acct_0"})
    assert synced(platform) == {"accounts": 3, "changed": 2, "gone": 2}
    assert state(platform, "c0") == (True, True, None)


def test_money_that_went_into_the_next_pay_day_is_not_asked_for_again(platform: Platform) -> None:
    platform.creator()
    platform.fault("refuse", code=MAY_PASS)
    dispatch("process-payouts", {"payoutDate": "2025-01-01"})
    platform.drain()
    platform.now += timedelta(days=1)
    dispatch("process-payouts", {"payoutDate": "2025-01-15"})
    platform.drain()
    earned(platform, 60_000)
    assert platform.statuses() == ["failed", "in_transit"]
    assert platform.again() == took(0)
    assert platform.owed() == 60_000
    platform.check()

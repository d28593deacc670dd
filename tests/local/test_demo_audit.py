"""The demo's audit finds what is wrong: a report that cannot fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import insert, update

from app.local.demo.audit import Audit, Due, audit, due
from app.local.earnings import SeedSummary, seed
from app.platform.gateways.stripe import Balance, StripeGateway, Transfer
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow, StepRow
from tests.support.tables import create_all

NOW = datetime(2025, 1, 15, tzinfo=UTC)


class ListedStripe:
    """As much of the gateway as the audit asks, from lists."""

    def __init__(self, transfers: list[Transfer], balance: dict[str, int]) -> None:
        self.transfers = transfers
        self.balance = balance

    def list_transfers(self) -> Iterator[Transfer]:
        return iter(self.transfers)

    def platform_balance(self) -> Balance:
        return Balance(self.balance, {})


class Paid:
    """A small pay day, paid to the last creator; each test then spoils one thing."""

    def __init__(self, db: Database, made: SeedSummary, owed: list[Due]) -> None:
        self.db = db
        self.owed = owed
        transfers = [
            Transfer(f"tr_{n}", one.amount, one.currency, one.destination, f"p{n}", NOW)
            for n, one in enumerate(owed)
        ]
        # No settle entries are posted here, so the ledger's cash is still what was topped up.
        self.stripe = ListedStripe(transfers, dict(made.top_ups))
        rows = [
            {
                "id": f"p{n}",
                "creator_id": one.creator,
                "currency": one.currency,
                "amount": one.amount,
                "destination": one.destination,
                "status": PayoutStatus.PAID,
                "payout_date": NOW.date(),
                "transfer_id": f"tr_{n}",
                "requested_at": NOW,
                "updated_at": NOW,
                "settled_at": NOW,
            }
            for n, one in enumerate(owed)
        ]
        with db.begin() as connection:
            connection.execute(insert(Payout), rows)

    def audit(self) -> Audit:
        return audit(self.db, cast(StripeGateway, self.stripe), self.owed)


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Paid]:
    db = Database(f"sqlite:///{tmp_path / 'test.db'}")
    create_all(db.engine)
    made = seed(db, creators=12, payable=8, seed=1, now=NOW)
    yield Paid(db, made, due(db, NOW))
    db.dispose()


def test_all_well(paid: Paid) -> None:
    found = paid.audit()
    assert len(paid.owed) == found.transfers == 8
    assert (found.lost, found.paid_twice, found.differences) == (0, 0, ())
    assert found.ledger_balanced


def test_a_second_transfer_is_paid_twice(paid: Paid) -> None:
    paid.stripe.transfers.append(replace(paid.stripe.transfers[3], id="tr_again"))
    found = paid.audit()
    assert (found.lost, found.paid_twice) == (0, 1)
    assert "tr_3, tr_again" in found.differences[0]


def test_no_transfer_is_lost_whatever_the_ledger_says(paid: Paid) -> None:
    del paid.stripe.transfers[3]
    found = paid.audit()
    assert (found.lost, found.paid_twice) == (1, 0)
    assert "was not paid; the ledger says paid" in found.differences[0]


def test_a_transfer_the_ledger_does_not_know_of_is_lost(paid: Paid) -> None:
    with paid.db.begin() as connection:
        connection.execute(
            update(Payout)
            .where(Payout.id == "p3")
            .values(status=PayoutStatus.SENDING, transfer_id=None, settled_at=None)
        )
    found = paid.audit()
    assert (found.lost, found.paid_twice) == (1, 0)
    assert "the ledger says None" in found.differences[0]


def test_money_that_did_not_reach_the_bank_is_lost(paid: Paid) -> None:
    with paid.db.begin() as connection:
        connection.execute(
            update(Payout)
            .where(Payout.id == "p3")
            .values(status=PayoutStatus.IN_TRANSIT, settled_at=None)
        )
    found = paid.audit()
    assert (found.lost, found.paid_twice) == (1, 0)
    assert "was paid by tr_3, but the ledger says None" in found.differences[0]


def test_payouts_are_counted_by_the_backend_that_transferred_them(paid: Paid) -> None:
    run = {
        "id": "r1",
        "job": "process-payouts",
        "key": "2025-01-15",
        "payload": "{}",
        "backend": "inngest",
        "reason": "HANDED_OVER",
        "stage": "ramp",
        "stage_version": 1,
        "status": "succeeded",
        "created_at": NOW,
        "due_at": NOW,
    }
    step = {"run_id": "r1", "status": "done", "updated_at": NOW}
    steps = [
        step | {"name": name, "backend": backend, "result": json.dumps({"landed": landed})}
        for name, backend, landed in (
            ("transfer-0-0", "rq", 3),
            ("transfer-0-1", "inngest", 4),
            ("transfer-1-0", "rq", 1),
            ("bank-0-0", "rq", 8),
        )
    ]
    other = run | {"id": "r2", "job": "process-single-payout", "reason": "STATIC"}
    lone = step | {"run_id": "r2", "name": "transfer-0", "backend": "rq", "result": "{}"}
    with paid.db.begin() as connection:
        connection.execute(insert(RunRow), [run, other])
        connection.execute(insert(StepRow), [*steps, lone])
    found = paid.audit()
    assert found.by_backend == {"rq": 4, "inngest": 4}
    assert (found.payouts, found.handed_over) == (8, 1)


def test_another_amount_differs(paid: Paid) -> None:
    paid.stripe.transfers[3] = replace(paid.stripe.transfers[3], amount_minor=1)
    assert any("was paid 1 by tr_3" in line for line in paid.audit().differences)


def test_a_transfer_to_someone_else_differs(paid: Paid) -> None:
    paid.stripe.transfers.append(
        replace(paid.stripe.transfers[0], id="tr_x", destination="acct_other")
    )
    assert paid.audit().differences == ("tr_x pays acct_other, which was not to be paid",)


def test_cash_that_stripe_does_not_have_is_no_balance(paid: Paid) -> None:
    currency = paid.owed[0].currency
    paid.stripe.balance[currency] -= 1
    found = paid.audit()
    assert not found.ledger_balanced
    assert len(found.differences) == 1

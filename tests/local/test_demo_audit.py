"""The demo's audit finds what is wrong: a report that cannot fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import insert, update

from app.local.demo.audit import Audit, audit, due
from app.local.seed import seed
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import Balance, Transfer
from app.platform.ledger.postings import trial_balance
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow, StepRow
from tests.support.rows import run_row, step_row
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

    def __init__(self, db: Database) -> None:
        self.db = db
        self.owed = owed = due(db, NOW)
        transfers = [
            Transfer(
                id=f"tr_{n}",
                amount=one.amount,
                currency=one.currency,
                destination=one.destination,
                transfer_group=f"p{n}",
                created=NOW,
                amount_reversed=0,
            )
            for n, one in enumerate(owed)
        ]
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
            # No settle entries are posted here, so the ledger's cash is still what it began with.
            cash = {c: books.cash for c, books in trial_balance(connection).items()}
        self.stripe = ListedStripe(transfers, cash)

    def audit(self) -> Audit:
        return audit(self.db, cast(StripeGateway, self.stripe), self.owed)


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Paid]:
    db = Database(f"sqlite:///{tmp_path / 'test.db'}")
    create_all(db.engine)
    seed(db, creators=12, payable=8, now=NOW)
    yield Paid(db)
    db.dispose()


def again(paid: Paid) -> None:
    paid.stripe.transfers.append(paid.stripe.transfers[3].model_copy(update={"id": "tr_again"}))


def gone(paid: Paid) -> None:
    del paid.stripe.transfers[3]


def standing(paid: Paid, **values: Any) -> None:
    """What the ledger says of one payout."""
    with paid.db.begin() as connection:
        connection.execute(
            update(Payout).where(Payout.id == "p3").values(settled_at=None, **values)
        )


def another_amount(paid: Paid) -> None:
    paid.stripe.transfers[3] = paid.stripe.transfers[3].model_copy(update={"amount": 1})


def to_someone_else(paid: Paid) -> None:
    odd = paid.stripe.transfers[0].model_copy(update={"id": "tr_x", "destination": "acct_other"})
    paid.stripe.transfers.append(odd)


def less_cash(paid: Paid) -> None:
    paid.stripe.balance[paid.owed[0].currency] -= 1


def unknown(paid: Paid) -> None:
    standing(paid, status=PayoutStatus.SENDING, transfer_id=None)


def not_at_the_bank(paid: Paid) -> None:
    standing(paid, status=PayoutStatus.IN_TRANSIT)


SPOILS: list[tuple[Callable[[Paid], None], int, int, str]] = [
    (again, 0, 1, "('tr_again', "),
    (gone, 1, 0, "Stripe has [], the ledger ('tr_3', "),
    (unknown, 1, 0, "the ledger None"),
    (not_at_the_bank, 1, 0, "the ledger None"),
    (another_amount, 1, 0, "Stripe has [('tr_3', 1)], the ledger ('tr_3', "),
    (to_someone_else, 0, 0, "('acct_other', "),
    (less_cash, 0, 0, ""),
]
"""What is spoilt, what is lost and paid twice by that, and what is said."""


def test_all_well(paid: Paid) -> None:
    seen = paid.audit()
    assert len(paid.owed) == seen.transfers == 8
    assert (seen.lost, seen.paid_twice, seen.differences) == (0, 0, [])
    assert seen.ledger_balanced


@pytest.mark.parametrize(
    ("spoil", "lost", "twice", "says"), SPOILS, ids=[spoil.__name__ for spoil, *_ in SPOILS]
)
def test_what_is_wrong_is_seen(
    paid: Paid, spoil: Callable[[Paid], None], lost: int, twice: int, says: str
) -> None:
    spoil(paid)
    seen = paid.audit()
    assert (seen.lost, seen.paid_twice) == (lost, twice)
    (line,) = seen.differences
    assert says in line
    assert seen.ledger_balanced is (spoil is not less_cash)


def test_payouts_are_counted_by_the_backend_that_transferred_them(paid: Paid) -> None:
    run = run_row("r1", "process-payouts", NOW, backend="inngest", reason="HANDED_OVER")
    other = run_row("r2", "process-single-payout", NOW)
    steps = [
        step_row("r1", NOW, name=name, backend=backend, result=json.dumps({"landed": landed}))
        for name, backend, landed in (
            ("transfer-0-0", "rq", 3),
            ("transfer-0-1", "inngest", 4),
            ("transfer-1-0", "rq", 1),
            ("bank-0-0", "rq", 8),
        )
    ]
    lone = step_row("r2", NOW, name="transfer-0", result="{}")
    with paid.db.begin() as connection:
        connection.execute(insert(RunRow), [run, other])
        connection.execute(insert(StepRow), [*steps, lone])
    found = paid.audit()
    assert found.by_backend == {"rq": 4, "inngest": 4}
    assert (found.payouts, found.handed_over) == (8, 1)

"""The demo's audit finds what is wrong: a report that cannot fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, update

from app.local.demo.audit import Audit, audit, due
from app.local.seed import seed
from app.platform.gateways.stripe_answers import Balance, Transfer
from app.platform.ledger.postings import trial_balance
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow, StepRow
from tests.support.rows import run_row, step_row
from tests.support.tables import create_all

NOW = datetime(2025, 1, 15, tzinfo=UTC)


class Paid:
    """A small pay day, paid to the last creator; each test then spoils one thing."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.owed = owed = due(db, NOW)
        self.transfers = [
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
        same = {"status": PayoutStatus.PAID, "payout_date": NOW.date()}
        same |= dict.fromkeys(("requested_at", "updated_at", "settled_at"), NOW)
        rows = [
            {"id": f"p{n}", "creator_id": one.creator, "transfer_id": f"tr_{n}", **same}
            | {name: getattr(one, name) for name in ("destination", "currency", "amount")}
            for n, one in enumerate(owed)
        ]
        with db.begin() as connection:
            connection.execute(insert(Payout), rows)
            # No settle entries are posted here, so the ledger's cash is still what it began with.
            self.cash = {c: books.cash for c, books in trial_balance(connection).items()}

    def fourth(self, **change: Any) -> Transfer:
        """The transfer to the fourth creator, but for what is changed."""
        return self.transfers[3].model_copy(update=change)

    def ledger_says(self, **values: Any) -> None:
        """Of the payout to the fourth creator."""
        with self.db.begin() as connection:
            fourth = update(Payout).where(Payout.id == "p3")
            connection.execute(fourth.values(settled_at=None, **values))

    def audit(self) -> Audit:
        stripe: Any = SimpleNamespace(
            list_transfers=lambda: iter(self.transfers),
            platform_balance=lambda: Balance(self.cash, {}),
        )
        return audit(self.db, stripe, self.owed)


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Paid]:
    db = Database(f"sqlite:///{tmp_path / 'test.db'}")
    create_all(db.engine)
    seed(db, creators=12, payable=8, now=NOW)
    yield Paid(db)
    db.dispose()


SPOILS: dict[str, tuple[Callable[[Paid], object], int, int, str]] = {
    "sent again": (lambda p: p.transfers.append(p.fourth(id="tr_again")), 0, 1, "('tr_again', "),
    "gone": (lambda p: p.transfers.pop(3), 1, 0, "Stripe has [], the ledger ('tr_3', "),
    "not at the bank": (
        lambda p: p.ledger_says(status=PayoutStatus.IN_TRANSIT),
        *(1, 0, "the ledger None"),
    ),
    "another amount": (
        lambda p: p.transfers.__setitem__(3, p.fourth(amount=1)),
        *(1, 0, "Stripe has [('tr_3', 1)], the ledger ('tr_3', "),
    ),
    "to someone else": (
        lambda p: p.transfers.append(p.fourth(id="tr_x", destination="acct_other")),
        *(0, 0, "('acct_other', "),
    ),
    "less cash": (lambda p: p.cash.update({p.owed[0].currency: 1}), 0, 0, "Stripe's 1"),
}
"""What is spoilt, what is lost and paid twice by that, and what is said."""


def test_all_well(paid: Paid) -> None:
    seen = paid.audit()
    assert len(paid.owed) == seen.transfers == 8
    assert (seen.lost, seen.paid_twice, seen.differences) == (0, 0, [])
    assert seen.ledger_balanced


@pytest.mark.parametrize("name", SPOILS)
def test_what_is_wrong_is_seen(paid: Paid, name: str) -> None:
    spoil, lost, twice, says = SPOILS[name]
    spoil(paid)
    seen = paid.audit()
    assert (seen.lost, seen.paid_twice) == (lost, twice)
    (line,) = seen.differences
    assert says in line
    assert seen.ledger_balanced is (name != "less cash")


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

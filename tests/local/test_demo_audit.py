"""The demo's audit finds what is wrong: a report that cannot fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, update

from app.local.demo.audit import Audit, audit, due
from app.platform.gateways.stripe_answers import Balance, Transfer
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.runs.models import RunRow, StepRow
from tests.support.platform import START, Platform
from tests.support.rows import run_row, step_row


class Paid:
    """A small pay day, paid to the last creator; each test then spoils one thing."""

    def __init__(self, platform: Platform) -> None:
        platform.seed(12, 8)
        self.db = platform.db
        self.owed = due(self.db, START)
        platform.pay_day()
        platform.settle()
        stripe = platform.runtime.engine.gateways.stripe
        to_fourth = self.owed[3].destination
        there: list[Transfer] = list(stripe.list_transfers())
        self.transfers = sorted(there, key=lambda transfer: transfer.destination == to_fourth)
        self.cash = dict(stripe.platform_balance().total)

    def fourth(self, **change: Any) -> Transfer:
        """The transfer to the fourth creator, which is last, but for what is changed."""
        return self.transfers[-1].model_copy(update=change)

    def ledger_says(self, **values: Any) -> None:
        """Of the payout to the fourth creator."""
        with self.db.begin() as connection:
            fourth = update(Payout).where(Payout.creator_id == self.owed[3].creator)
            connection.execute(fourth.values(settled_at=None, **values))

    def audit(self) -> Audit:
        stripe: Any = SimpleNamespace(
            list_transfers=lambda: iter(self.transfers),
            platform_balance=lambda: Balance(self.cash, {}),
        )
        return audit(self.db, stripe, self.owed)


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Paid]:
    with closing(Platform(f"sqlite:///{tmp_path / 'test.db'}")) as platform:
        yield Paid(platform)


SPOILS: dict[str, tuple[Callable[[Paid], object], int, int, str]] = {
    "sent again": (lambda p: p.transfers.append(p.fourth(id="tr_again")), 0, 1, "('tr_again', "),
    "gone": (lambda p: p.transfers.pop(), 1, 0, "Stripe has [], the ledger ('tr_"),
    "not at the bank": (
        lambda p: p.ledger_says(status=PayoutStatus.IN_TRANSIT),
        *(1, 0, "the ledger None"),
    ),
    "another amount": (
        lambda p: p.transfers.__setitem__(-1, p.fourth(amount=1)),
        *(1, 0, ", 1)], the ledger ('tr_"),
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
    assert len(paid.owed) == seen.transfers == seen.payouts == seen.by_backend["rq"] == 8
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
    run = run_row("r1", "process-payouts", START, backend="inngest", reason="HANDED_OVER")
    other = run_row("r2", "process-single-payout", START)
    steps = [
        step_row("r1", START, name=name, backend=backend, result=json.dumps({"landed": landed}))
        for name, backend, landed in (
            *(("transfer-0-0", "rq", 3), ("transfer-0-1", "inngest", 4), ("bank-0-0", "rq", 8)),
        )
    ]
    lone = step_row("r2", START, name="transfer-0", result="{}")
    with paid.db.begin() as connection:
        connection.execute(insert(RunRow), [run, other])
        connection.execute(insert(StepRow), [*steps, lone])
    found = paid.audit()
    assert found.by_backend == {"rq": 8 + 3, "inngest": 4}
    assert (found.payouts, found.handed_over) == (15, 1)

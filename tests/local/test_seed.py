"""The made-up platform: always the same, realistic, and with sound books."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.local.seed import SOURCES, seed, stripe_accounts
from app.local.stripe.accounts import AccountState
from app.platform.config import Settings
from app.platform.currencies import MINIMUM
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import HOLDING, reserve, verdicts
from app.platform.payouts.models import Payout
from app.switchyard.db import Database
from tests.support.tables import create_all

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = Database(Settings(database_url=database_url).sqlalchemy_url)
    create_all(made.engine)
    yield made
    made.dispose()


def test_a_seed_gives_the_same_platform_every_time(tmp_path: Path) -> None:
    made: list[Any] = []
    for number in range(2):
        db = Database(f"sqlite:///{tmp_path / f'{number}.db'}")
        create_all(db.engine)
        seed(db, creators=60, payable=50, now=NOW)
        with db.autocommit() as connection:
            models = (Creator, Earning, Entry)
            made.append([connection.execute(select(m).order_by(m.id)).all() for m in models])
        db.dispose()
    assert made[0] == made[1]


def test_a_thousand_creators_are_realistic(db: Database) -> None:
    seed(db, creators=1_000, payable=860, now=NOW)
    v = verdicts(NOW).subquery().c
    with db.begin() as tx:
        assert balanced(trial_balance(tx))
        assert post_earnings(tx) == 0
        reasons: dict[str | None, int] = dict(
            tx.execute(select(v.reason, func.count()).group_by(v.reason)).all()
        )
        assert (reasons[None], reasons["below_minimum"], reasons["holding_period"]) == (860, 80, 20)
        assert len(reasons) == 6
        payable = set(tx.scalars(select(v.currency).where(v.reason.is_(None)).distinct()))
        assert payable == {"usd", "eur", "gbp", "jpy"}
        kinds = select(Earning.kind, func.count()).group_by(Earning.kind)
        count: dict[str, int] = dict(tx.execute(kinds).all())
        assert 15_000 < count[EarningKind.EARNING] < 25_000
        assert 0.02 < count[EarningKind.REFUND] / count[EarningKind.EARNING] < 0.04
        assert set(tx.scalars(select(Earning.source).distinct())) == set(SOURCES)
        span = tx.execute(select(func.min(Earning.occurred_at), func.max(Earning.occurred_at)))
        first, last = span.one()
        assert last <= NOW
        assert (NOW - first).days <= 37
        sums = select(func.sum(Earning.gross - Earning.fee)).where(Earning.currency == "usd")
        by_creator = tx.scalars(sums.group_by(Earning.creator_id)).all()
        accounts = [AccountState(**account) for account in stripe_accounts(tx)]
        original, refund = Earning.__table__.alias(), Earning.__table__.alias()
        joined = select(original, refund).join_from(
            refund, original, refund.c.refund_of == original.c.id
        )
        pairs = tx.execute(joined).all()
    ordered = sorted((int(amount) for amount in by_creator), reverse=True)
    # A power law: a tenth of the creators earn more than all others together.
    assert sum(ordered[: len(ordered) // 10]) > sum(ordered) / 2
    assert len({account.id for account in accounts}) == 1_000
    assert {(one.transfers, one.payouts_enabled) for one in accounts} > {("active", True)}
    assert pairs
    for pair in pairs:  # a refund takes back what its earning brought
        earned, back = pair[: len(pair) // 2], pair[len(pair) // 2 :]
        assert (earned[3], back[3]) == (EarningKind.EARNING, EarningKind.REFUND)
        assert (earned[1], earned[4:7]) == (back[1], back[4:7])
        assert earned[8] <= back[8] <= NOW


@pytest.mark.parametrize(("creators", "payable"), [(70, 30), (60, 60), (12, 0), (1, 1)])
def test_exactly_so_many_are_payable_and_the_new_wait_their_time(
    db: Database, creators: int, payable: int
) -> None:
    seed(db, creators=creators, payable=payable, now=NOW)
    with db.begin() as tx:
        new = (creators - payable) // 7
        for later, waiting in ((timedelta(), new), (timedelta(hours=23), new), (HOLDING, 0)):
            rows = tx.execute(select(verdicts(NOW + later).subquery())).all()
            assert sum(row.reason == "holding_period" for row in rows) == waiting
        planned = reserve(tx, date(2025, 1, 15), NOW, "run")
        assert planned["requested"] == planned["new"] == payable
        paid = tx.execute(select(Payout.currency, Payout.amount)).all()
        assert all(amount >= MINIMUM[currency] for currency, amount in paid)
        assert sum(books.held for books in trial_balance(tx).values()) == sum(p[1] for p in paid)

"""The made-up platform: the same for a seed, realistic, and with sound books."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from app.local.earnings import SOURCES, SeedSummary, seed
from app.platform.config import Settings
from app.platform.currencies import MINIMUM
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import reserve
from app.platform.payouts.models import Payout
from app.switchyard.db import Database
from app.switchyard.errors import BadInput
from tests.support.tables import create_all

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)


def database(url: str) -> Database:
    made = Database(Settings(database_url=url).sqlalchemy_url)
    create_all(made.engine)
    return made


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = database(database_url)
    yield made
    made.dispose()


def rows(db: Database) -> list[Any]:
    with db.autocommit() as connection:
        return [
            connection.execute(select(model).order_by(model.__table__.c.id)).all()
            for model in (Creator, Earning, Entry)
        ]


def test_a_seed_gives_the_same_platform_every_time(tmp_path: Path) -> None:
    made: list[tuple[SeedSummary, Any]] = []
    for number, chosen in enumerate((7, 7, 8)):
        db = database(f"sqlite:///{tmp_path / f'{number}.db'}")
        made.append((seed(db, creators=60, seed=chosen, now=NOW), rows(db)))
        db.dispose()
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_thousand_creators_are_realistic(db: Database) -> None:
    made = seed(db, creators=1_000, seed=1, now=NOW)
    assert made.payable == 860
    assert (made.left_out["below_minimum"], made.left_out["holding_period"]) == (80, 20)
    assert sum(made.left_out.values()) == 140
    assert len(made.left_out) == 5
    assert set(made.top_ups) == set(made.payable_amounts) == {"usd", "eur", "gbp", "jpy"}
    with db.begin() as tx:
        assert balanced(trial_balance(tx))
        assert post_earnings(tx) == 0
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
    ordered = sorted((int(amount) for amount in by_creator), reverse=True)
    # A power law: a tenth of the creators earn more than all others together.
    assert sum(ordered[: len(ordered) // 10]) > sum(ordered) / 2


@pytest.mark.parametrize(("creators", "payable"), [(70, 60), (60, 60), (12, 0), (1, 1)])
def test_exactly_so_many_are_payable(db: Database, creators: int, payable: int) -> None:
    made = seed(db, creators=creators, seed=5, now=NOW, payable=payable)
    assert made.payable == payable
    with db.begin() as tx:
        planned = reserve(tx, date(2025, 1, 15), NOW, "run")
        assert planned["requested"] == planned["new"] == payable
        assert planned["leftOut"] == made.left_out
        amounts = tx.execute(select(Payout.currency, Payout.amount)).all()
        assert all(amount >= MINIMUM[currency] for currency, amount in amounts)
        held = {currency: books.held for currency, books in trial_balance(tx).items()}
    assert {c: h for c, h in held.items() if h} == made.payable_amounts


@pytest.mark.parametrize(("creators", "payable"), [(10, 11), (10, -1), (0, 0)])
def test_impossible_wishes_are_refused(tmp_path: Path, creators: int, payable: int) -> None:
    db = database(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(BadInput, match="payable"):
        seed(db, creators=creators, seed=1, now=NOW, payable=payable)
    db.dispose()


def test_a_second_seed_leaves_the_first_alone(db: Database) -> None:
    seed(db, creators=10, seed=1, now=NOW)
    before = rows(db)
    with pytest.raises(IntegrityError):
        seed(db, creators=10, seed=2, now=NOW)
    assert rows(db) == before

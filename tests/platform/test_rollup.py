"""Earnings in any order, late, corrected and taken back, with rollups in between: the sums are what
a plain reckoning makes of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, update

from app.platform.config import Settings
from app.platform.earnings import rollup
from app.platform.earnings.models import (
    Creator,
    Earning,
    EarningKind,
    daily,
    dirty_days,
    lifetime,
    monthly,
    platform_days,
)
from app.platform.earnings.posting import TAKING, post_earnings
from app.platform.ledger.postings import balance, creator_account
from app.switchyard.db import Database
from tests.conftest import new_database
from tests.support.tables import create_all

FIRST = date(2025, 1, 29)
"""The days reach into the next month."""
MONTHS = [date(2025, 1, 1), date(2025, 2, 1)]
FAR = date(2100, 1, 1)
CREATORS = {"ana": "usd", "bea": "usd", "cem": "jpy"}
TAKES = (EarningKind.REFUND, EarningKind.DISPUTE, EarningKind.DISPUTE_WON)
Sums = dict[tuple[Any, ...], tuple[int, ...]]

days = st.integers(0, 6)
seconds = st.sampled_from((0, 1, 43_200, 86_399))
which = st.integers(0, 1_000)
acts = st.lists(
    st.one_of(
        st.tuples(
            *(
                st.just("sell"),
                st.sampled_from(sorted(CREATORS)),
                st.sampled_from(("tips", "calls")),
            ),
            *(days, seconds, st.integers(1, 5_000), st.integers(0, 100)),
        ),
        st.tuples(
            *(st.just("take"), which, st.sampled_from(TAKES)),
            *(days, seconds, st.integers(1, 100)),
        ),
        st.tuples(st.just("correct"), which, days, seconds, st.integers(1, 5_000)),
        st.tuples(st.just("drop"), which),
        st.tuples(st.just("post")),
        st.tuples(st.just("roll"), days),
        st.tuples(st.just("roll_dirty")),
        st.tuples(st.just("roll_month"), st.sampled_from(MONTHS)),
    ),
    max_size=40,
)


def opened(url: str) -> Database:
    return Database(Settings(database_url=url).sqlalchemy_url)


def prepare(url: str) -> None:
    """The tables, and the creators."""
    db = opened(url)
    create_all(db.engine)
    known = {"email": "e", "country": "US", "payouts_enabled": True, "transfers_active": True}
    people = [
        {"id": name, "name": name, "currency": currency, "created_at": moment(0, 0), **known}
        for name, currency in CREATORS.items()
    ]
    with db.begin() as tx:
        tx.execute(insert(Creator), people)
    db.dispose()


def moment(day: int, second: int) -> datetime:
    return datetime.combine(FIRST + timedelta(days=day), datetime.min.time(), UTC) + timedelta(
        seconds=second
    )


class World:
    """What the acts do to a database."""

    def __init__(self, tx: Connection) -> None:
        self.tx = tx
        self.made = 0

    def rows(self, *where: Any) -> list[Any]:
        return list(self.tx.execute(select(Earning).where(*where).order_by(Earning.id)))

    def write(self, **row: Any) -> None:
        self.made += 1
        self.tx.execute(insert(Earning).values(id=f"e{self.made:04}", posted=False, **row))

    def sell(
        self, creator: str, source: str, day: int, second: int, gross: int, percent: int
    ) -> None:
        self.write(
            creator_id=creator,
            source=source,
            kind=EarningKind.EARNING,
            currency=CREATORS[creator],
            gross=gross,
            fee=gross * percent // 100,
            occurred_at=moment(day, second),
        )

    def take(self, nth: int, kind: str, day: int, second: int, percent: int) -> None:
        if not (sales := self.rows(Earning.kind == EarningKind.EARNING)):
            return
        sale = sales[nth % len(sales)]
        self.write(
            creator_id=sale.creator_id,
            source=sale.source,
            kind=kind,
            currency=sale.currency,
            gross=max(1, sale.gross * percent // 100),
            fee=0,
            refund_of=sale.id,
            occurred_at=moment(day, second),
        )

    def correct(self, nth: int, day: int, second: int, gross: int) -> None:
        if waiting := self.rows(Earning.posted.is_(False)):
            row = waiting[nth % len(waiting)]
            values = {"gross": gross, "fee": 0, "occurred_at": moment(day, second)}
            self.tx.execute(update(Earning).where(Earning.id == row.id).values(values))

    def drop(self, nth: int) -> None:
        referred = select(Earning.refund_of).where(Earning.refund_of.is_not(None))
        if waiting := self.rows(Earning.posted.is_(False), Earning.id.not_in(referred)):
            row = waiting[nth % len(waiting)]
            self.tx.execute(delete(Earning).where(Earning.id == row.id))

    def post(self) -> None:
        post_earnings(self.tx)

    def roll(self, day: int) -> None:
        target = FIRST + timedelta(days=day)
        rollup.roll_day(self.tx, target)
        rollup.roll_months(self.tx, [target])

    def roll_dirty(self) -> None:
        waiting = rollup.dirty(self.tx, FAR)
        for day in waiting:
            rollup.roll_day(self.tx, day)
        rollup.roll_months(self.tx, waiting)

    def roll_month(self, month: date) -> None:
        rollup.roll_month(self.tx, month)


def reckoned(rows: list[Any]) -> tuple[Sums, Sums, Sums, Sums]:
    """Days, months, lifetimes and the platform's days, one row after the other."""
    sums: list[dict[Any, list[int]]] = [{}, {}, {}, {}]
    creators: dict[Any, set[str]] = {}
    for row in rows:
        sale, taking = row.kind == EarningKind.EARNING, row.kind in TAKING
        gross = row.gross if sale else 0
        refunds = 0 if sale else row.gross if taking else -row.gross
        fee = -row.fee if taking else row.fee
        figures = (gross, refunds, fee, gross - refunds - fee, int(sale))
        day = row.occurred_at.astimezone(UTC).date()
        who = (row.creator_id, row.currency, row.source)
        platform = (day, row.currency, row.source)
        keys = ((day, *who), (day.replace(day=1), *who), who[:2], platform)
        creators.setdefault(platform, set()).add(row.creator_id)
        for part, key in zip(sums, keys, strict=True):
            total = part.setdefault(key, [0] * 5)
            part[key] = [a + b for a, b in zip(total, figures, strict=True)]
    plain = [{key: tuple(total) for key, total in part.items()} for part in sums]
    plain[3] = {key: (*total, len(creators[key])) for key, total in plain[3].items()}
    return plain[0], plain[1], plain[2], plain[3]


def stored(tx: Connection, table: Any, *keys: str) -> Sums:
    names = [*rollup.SUMS, *(["creators"] if "creators" in table.c else [])]
    rows = tx.execute(select(*(table.c[name] for name in (*keys, *names))))
    return {tuple(row[: len(keys)]): tuple(row[len(keys) :]) for row in rows}


def agree(tx: Connection) -> None:
    """All sums are what the rows say, once all is posted and rolled up."""
    world = World(tx)
    world.post()
    world.roll_dirty()
    for month in MONTHS:
        world.roll_month(month)
    assert tx.scalar(select(dirty_days.c.day)) is None
    by_day, by_month, life, platform = reckoned(world.rows())
    who = ("creator_id", "currency", "source")
    assert stored(tx, daily, "day", *who) == by_day
    assert stored(tx, monthly, "month", *who) == by_month
    # Who has nothing but what cancels out may have a row of zeros, or none.
    kept = stored(tx, lifetime, *who[:2])
    assert {k: v for k, v in kept.items() if any(v)} == {k: v for k, v in life.items() if any(v)}
    assert stored(tx, platform_days, "day", "currency", "source") == platform
    for who_, currency in CREATORS.items():
        owed = balance(tx, creator_account(who_), currency)
        assert owed == kept.get((who_, currency), (0,) * 5)[3], "as the ledger has it"
    for month in MONTHS:
        assert rollup.check_month(tx, month) == []
        of_month = [t["net"] for t in rollup.month_totals(tx, month)]
        assert sum(of_month) == sum(v[3] for k, v in by_month.items() if k[0] == month)
    for number in range(7):
        day = FIRST + timedelta(days=number)
        assert rollup.planned_day(tx, day) == rollup.platform_day(tx, day), "what a shadow compares"


class Undone(Exception):
    """The end of an example: nothing of it stays."""


def run(db: Database, done: list[tuple[Any, ...]]) -> None:
    with suppress(Undone), db.begin() as tx:
        world = World(tx)
        for name, *given_ in done:
            getattr(world, name)(*given_)
        agree(tx)
        before = [stored(tx, t, *(c.name for c in t.primary_key)) for t in (daily, lifetime)]
        for number in range(7):
            rollup.roll_day(tx, FIRST + timedelta(days=number))
        after = [stored(tx, t, *(c.name for c in t.primary_key)) for t in (daily, lifetime)]
        assert before[0] == after[0]
        assert {k: v for k, v in before[1].items() if any(v)} == after[1]
        raise Undone


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def db(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("rollup")
        url = stack.enter_context(new_database(request.param, folder, request))
        prepare(url)
        made = opened(url)
        stack.callback(made.dispose)
        yield made


@settings(max_examples=60)
@given(done=acts)
def test_the_sums_are_the_rows(db: Database, done: list[tuple[Any, ...]]) -> None:
    run(db, done)

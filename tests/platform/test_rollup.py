"""Earnings in any order, late, corrected and taken back, with rollups in between: the sums are what
a plain reckoning makes of the rows. Then the two jobs that make them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, Date, column, delete, insert, select, table, update

from app.platform.earnings import rollup
from app.platform.earnings.models import Earning, EarningKind, daily, dirty_days
from app.platform.earnings.posting import TAKING, post_earnings
from app.platform.ledger.postings import CREATOR
from app.platform.statements.models import Statement
from tests.support.earnings import balance
from tests.support.months import Months, at
from tests.support.sides import Side, in_memory

FIRST = date(2025, 1, 29)
"""The days reach into the next month."""
DAYS = [FIRST + timedelta(days=n) for n in range(7)]
MONTHS = [date(2025, 1, 1), date(2025, 2, 1)]
CREATORS = {"ana": "usd", "bea": "usd", "cem": "jpy"}
WHO = ("creator_id", "currency", "source")
monthly = table("monthly_earnings", column("month", Date), *map(column, (*WHO, *rollup.SUMS)))
lifetime = table("lifetime_earnings", *map(column, (*WHO[:2], *rollup.SUMS)))
platform_days = table(
    *("platform_days", column("day", Date)),
    *map(column, (*WHO[1:], *rollup.SUMS, "creators")),
)
Sums = dict[tuple[Any, ...], tuple[int, ...]]


def roll_dirty(tx: Connection) -> None:
    waiting = rollup.dirty(tx, date(2100, 1, 1))
    for day in waiting:
        rollup.roll_day(tx, day)


def act(tx: Connection, random: Random, name: str) -> None:
    """Something that happens to earnings or their sums."""
    when = datetime.combine(random.choice(DAYS), datetime.min.time(), UTC)
    when += timedelta(seconds=random.choice((0, 1, 43_200, 86_399)))
    gross = random.randint(1, 5_000)
    rows = list(tx.execute(select(Earning).order_by(Earning.id)))
    sales = [row for row in rows if row.kind == EarningKind.EARNING]
    taken = {row.refund_of for row in rows}
    open_ = [row for row in rows if not row.posted]
    row: dict[str, Any] = {"id": name, "posted": False, "gross": gross, "occurred_at": when}
    match random.randrange(8):
        case 0 | 1 | 2:
            who = random.choice(sorted(CREATORS))
            row |= {"creator_id": who, "currency": CREATORS[who], "kind": EarningKind.EARNING}
            row |= {"source": random.choice(("tips", "calls")), "fee": gross // 5}
            tx.execute(insert(Earning), [row])
        case 3 if sales:
            sale = random.choice(sales)
            kind = random.choice((*TAKING, EarningKind.DISPUTE_WON))
            row |= {"creator_id": sale.creator_id, "currency": sale.currency, "kind": kind}
            row |= {"source": sale.source, "fee": 0, "refund_of": sale.id}
            tx.execute(insert(Earning), [row])
        case 4 if open_:
            changed = {"gross": gross, "fee": 0, "occurred_at": when}
            which = Earning.id == random.choice(open_).id
            tx.execute(update(Earning).where(which).values(changed))
        case 5 if loose := [one.id for one in open_ if one.id not in taken]:
            tx.execute(delete(Earning).where(Earning.id == random.choice(loose)))
        case 6:
            post_earnings(tx)
        case 7:
            rollup.roll_day(tx, random.choice(DAYS))
        case _:
            roll_dirty(tx)


def reckoned(rows: list[Any]) -> tuple[Sums, Sums, Sums, Sums]:
    """Sum up days, months, lifetimes and the platform's days, row by row."""
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
    """Assert that all sums are those of the rows, and that no day is dirty."""
    assert tx.scalar(select(dirty_days.c.day)) is None
    by_day, by_month, life, platform = reckoned(list(tx.execute(select(Earning))))
    assert stored(tx, daily, "day", *WHO) == by_day
    assert stored(tx, platform_days, "day", "currency", "source") == platform
    assert stored(tx, lifetime, *WHO[:2]) == life
    assert stored(tx, monthly, "month", *WHO) == by_month
    for month in {key[0] for key in by_month}:
        assert rollup.check_month(tx, month) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_the_rows(months: Months, seed: int) -> None:
    random = Random(seed)
    for name, currency in CREATORS.items():
        months.creator(name, currency=currency)
    with months.db.begin() as tx:
        for number in range(120):
            act(tx, random, f"e{number:03}")
        post_earnings(tx)
        roll_dirty(tx)
        agree(tx)
        kept = stored(tx, lifetime, *WHO[:2])
        for who, currency in CREATORS.items():
            owed = balance(tx, CREATOR + who, currency)
            assert owed == kept.get((who, currency), (0,) * 5)[3], "as the ledger has it"
        totals = [one["net"] for month in MONTHS for one in rollup.month_totals(tx, month)]
        assert sum(totals) == sum(sums[3] for sums in kept.values())
        before = stored(tx, daily, "day", *WHO)
        for day in DAYS:
            assert rollup.planned_day(tx, day) == rollup.platform_day(tx, day), "for a shadow"
            rollup.roll_day(tx, day)
        assert stored(tx, daily, "day", *WHO) == before
        agree(tx)


def test_what_differs_is_named(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05", fee=100)
    with months.db.begin() as tx:
        roll_dirty(tx)
        tx.execute(update(daily).values(net=daily.c.net + 7))
        assert rollup.check_month(tx, MONTHS[0]) == [
            *("2025-01, ana usd tips: days less earnings is net 7",),
            *("2025-01, usd: days less ledger is net 7",),
        ]


# The two jobs


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Side]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    env = {"SWITCHYARD_JOBS": "app.platform.earnings.jobs,app.platform.statements.jobs"}
    env |= {"STORAGE_URL": (tmp_path / "storage").as_uri(), "PLATFORM_NAME": "Fanhouse"}
    with in_memory(url, **env) as made:
        yield made


@pytest.fixture
def lived(on: Side, tmp_path: Path) -> Iterator[Months]:
    """Two creators, with sales of January and February of which no sum is made yet, and one that
    another program wrote."""
    months = Months(on.environ["DATABASE_URL"], tmp_path / "storage")
    months.creator("ana", "bob")
    months.sale("s1", 700, "2025-01-30", creator="bob")
    months.sale("s2", 900, "2025-02-03", fee=100)
    row = {"id": "s3", "creator_id": "bob", "currency": "usd", "source": "tips", "gross": 50}
    row |= {"kind": EarningKind.EARNING, "fee": 0, "occurred_at": at("2025-02-03")}
    with months.db.begin() as tx:
        tx.execute(insert(Earning), [row])
    yield months
    months.db.dispose()


def test_all_days_that_wait_are_rolled_up_and_then_only_the_one_asked_for(
    on: Side, lived: Months
) -> None:
    for key, days in ((None, 3), ("again", 1)):
        run = on.dispatch("daily-earnings-rollup", {"targetDate": "2025-12-31"}, key=key)
        (row,) = on.finish(run)
        assert json.loads(row.result)["days"] == days, row.error
    assert not on.dispatch("daily-earnings-rollup", {"targetDate": "2025-12-31"}).created
    with lived.db.begin() as tx:
        agree(tx)


def test_a_month_is_closed_and_stated(on: Side, lived: Months) -> None:
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"}))
    assert row.status == "succeeded", row.error
    done = json.loads(row.result)
    assert (done["statements"], done["statementsWrong"]) == (2, [])
    assert lived.db.rows(select(Statement.id).order_by(Statement.id)) == [
        *(("ana:2025-02",), ("bob:2025-02",))
    ]
    with lived.db.begin() as tx:
        roll_dirty(tx)  # what is left for the daily one
        agree(tx)


@pytest.mark.usefixtures("lived")
def test_a_month_that_is_not_over_has_no_statement_yet(on: Side) -> None:
    this = f"{on.runtime.store.clock():%Y-%m}"
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": this}))
    assert (row.status, json.loads(row.result)["statements"]) == ("succeeded", 0), row.error

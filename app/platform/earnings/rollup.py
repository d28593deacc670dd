"""Sums up earnings by creator and day, in the caller's transaction.

Rollups wait for each other, but writers of earnings never wait for them. Days and months are in
UTC, a month is given as its first day, and amounts are in minor units.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from app.platform.db import AnySelect, Tx, connection_of
from app.platform.earnings.models import Earning as E
from app.platform.earnings.models import EarningKind, daily, dirty_days
from app.platform.earnings.posting import SHARE_KINDS, TAKING
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CREATOR

SUMS = ("gross", "refunds", "fees", "net", "count")
KEYS = ("creator_id", "currency", "source")
MAX_DIFFERENCES = 20
"""The most sentences about one kind of difference."""
_LOCK = 0x726F6C6C  # any number that nothing else locks
_ROOM = "16MB"


def dirty(tx: Tx, before: date, since: date = date.min) -> list[date]:
    """The days in [since, before) whose earnings changed since they were rolled up, in order."""
    days = dirty_days.c.day
    chosen = sa.select(days).where(days >= since, days < before).distinct().order_by(days)
    return list(connection_of(tx).scalars(chosen))


def roll_day(tx: Tx, day: date) -> None:
    """Roll up a day again."""
    connection = _alone(tx)
    # Marks before earnings: a mark that is not visible yet may be for earnings that are not visible
    # either, and stays for the next rollup.
    connection.execute(sa.delete(dirty_days).where(dirty_days.c.day == day))
    connection.execute(sa.delete(daily).where(daily.c.day == day))
    # In the order of the indexes, which Postgres can write faster.
    earned = raw(day, day + timedelta(days=1)).order_by(E.creator_id, E.currency, E.source)
    stamp = sa.literal(day, daily.c.day.type).label("day")
    new = sa.insert(daily).from_select([*KEYS, *SUMS, "day"], earned.add_columns(stamp))
    connection.execute(new)


def check_month(tx: Tx, month: date) -> list[str]:
    """A sentence for each difference between a month's days, earnings and ledger. Earnings that are
    not posted, and days that are dirty, count as differences."""
    connection = connection_of(tx)
    end, name, differences = following(month), f"{month:%Y-%m}", []
    differing = _difference(_of_days(month, *KEYS, *SUMS), raw(month, end), KEYS, SUMS)
    for row in connection.execute(differing.limit(MAX_DIFFERENCES)):
        off = ", ".join(f"{n} {row._mapping[n]}" for n in SUMS if row._mapping[n])
        who = f"{row.creator_id} {row.currency} {row.source}"
        differences.append(f"{name}, {who}: days less earnings is {off}")
    to_creator = Entry.credit.startswith(CREATOR, autoescape=True)
    net = sa.case((to_creator, Entry.amount), else_=-Entry.amount)
    start, stop = _moment(month), _moment(end)
    booked = sa.select(Entry.currency, net.label("net")).where(
        Entry.kind.in_(SHARE_KINDS), Entry.created_at >= start, Entry.created_at < stop
    )
    by_currency = _difference(_of_days(month, "currency", "net"), booked, ("currency",), ("net",))
    for currency, off in connection.execute(by_currency):
        differences.append(f"{name}, {currency}: days less ledger is net {off}")
    return differences


def platform_day(tx: Tx, day: date) -> list[dict[str, Any]]:
    """The platform's day according to the rollup, by currency and source."""
    return _platform(tx, sa.select(daily).where(daily.c.day == day))


def planned_day(tx: Tx, day: date) -> list[dict[str, Any]]:
    """What platform_day() would return after roll_day(). Nothing is written."""
    return _platform(tx, raw(day, day + timedelta(days=1)))


def month_totals(tx: Tx, month: date) -> list[dict[str, Any]]:
    """The sums of a month's days by currency."""
    of = _of_days(month, "currency", *SUMS).subquery()
    chosen = sa.select(of.c.currency, *_summed(of, SUMS)).group_by(of.c.currency)
    return _rows(tx, chosen.order_by(of.c.currency))


def following(month: date) -> date:
    """The next month."""
    return (month + timedelta(days=31)).replace(day=1)


def raw(since: date, until: date) -> AnySelect:
    """The earnings of [since, until) summed up by creator, currency and source."""
    taking, sale = E.kind.in_(TAKING), E.kind == EarningKind.EARNING
    sums = {
        "gross": sa.case((sale, E.gross), else_=0),
        "refunds": sa.case((sale, 0), (taking, E.gross), else_=-E.gross),
        "fees": sa.case((taking, -E.fee), else_=E.fee.expression),
        "net": sa.case((taking, E.fee - E.gross), else_=E.gross - E.fee),
        "count": sa.case((sale, 1), else_=0),
    }
    by = (E.creator_id, E.currency, E.source)
    return (
        sa.select(*by, *(_total(of).label(name) for name, of in sums.items()))
        .where(E.occurred_at >= _moment(since), E.occurred_at < _moment(until))
        .group_by(*by)
    )


def _of_days(month: date, *names: str) -> AnySelect:
    chosen = sa.select(*(daily.c[name] for name in names))
    return chosen.where(daily.c.day >= month, daily.c.day < following(month))


def _platform(tx: Tx, creators: AnySelect) -> list[dict[str, Any]]:
    """Sum up the creators' rows of a day by currency and source."""
    of = creators.subquery()
    by = (of.c.currency, of.c.source)
    chosen = sa.select(*by, *_summed(of, SUMS), sa.func.count().label("creators"))
    return _rows(tx, chosen.group_by(*by).order_by(*by))


def _difference(
    left: AnySelect, right: AnySelect, keys: Sequence[str], sums: Sequence[str]
) -> AnySelect:
    """The sums of left less right by `keys`, where one is not zero. Both have these columns."""
    other = right.subquery().c
    taken = sa.select(*(other[name] for name in keys), *(-other[name] for name in sums))
    sides = sa.union_all(left, taken).subquery()
    by = [sides.c[name] for name in keys]
    chosen = sa.select(*by, *_summed(sides, sums)).group_by(*by).order_by(*by)
    return chosen.having(sa.or_(*(sa.func.sum(sides.c[name]) != 0 for name in sums)))


def _rows(tx: Tx, chosen: AnySelect) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection_of(tx).execute(chosen)]


def _summed(of: sa.FromClause, sums: Sequence[str]) -> list[sa.ColumnElement[int]]:
    return [_total(of.c[name]).label(name) for name in sums]


def _total(of: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    # Postgres sums integers to a numeric.
    return sa.cast(sa.func.sum(of), sa.BigInteger)


def _moment(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _alone(tx: Tx) -> sa.Connection:
    """Allow one rollup at a time until the transaction ends, and speed up its sorting."""
    connection = connection_of(tx)
    if connection.dialect.name == "postgresql":
        room = sa.func.set_config("work_mem", _ROOM, True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK), room))
    else:  # which has one writer anyway
        connection.exec_driver_sql("PRAGMA threads = 1")
    return connection

"""Earnings summed up by set: a creator's day, month and lifetime, and the platform's day.

Each in the caller's transaction; rollups wait for each other, who earns never waits for them. Days
and months are UTC, a month is its first day, amounts are minor units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
)

from app.platform.earnings.models import Earning as E
from app.platform.earnings.models import (
    EarningKind,
    daily,
    dirty_days,
    lifetime,
    monthly,
    platform_days,
)
from app.platform.earnings.posting import SHARE_KINDS, TAKING
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import COUNTED, CREATOR, AnySelect, Tx, connection_of
from app.switchyard.db import INSERT, canonical_json

SUMS = ("gross", "refunds", "fees", "net", "count")
KEYS = ("creator_id", "currency", "source")
MAX_TOLD = 20
"""Sentences about one kind of difference."""
_LOCK = 0x726F6C6C  # any number that nothing else locks
_ROOM = "16MB"
_PAGE = 10_000


def dirty(tx: Tx, before: date, since: date = date.min) -> list[date]:
    """The days from `since` until before `before` whose earnings changed since they were rolled
    up, in order."""
    days = dirty_days.c.day
    chosen = select(days).where(days >= since, days < before).distinct().order_by(days)
    return list(connection_of(tx).scalars(chosen))


def roll_day(tx: Tx, day: date) -> int:
    """Redo a day: its creators', the platform's, and its part of lifetimes; how many rows it has.

    Its month is not touched: roll_months() comes after the last day of it, at once.
    """
    connection = _alone(tx)
    # First the marks, then the earnings: a mark this does not see yet is of earnings it may not see
    # either, and stays for the next time.
    connection.execute(delete(dirty_days).where(dirty_days.c.day == day))
    if connection.scalar(select(exists().where(daily.c.day == day))):
        _add(connection, day, -1)
        nothing = and_(*(lifetime.c[name] == 0 for name in SUMS))
        connection.execute(delete(daily).where(daily.c.day == day))
    else:
        nothing = None
    stamp = literal(day, daily.c.day.type)
    # In the order of the indexes, which Postgres writes faster so.
    earned = raw(day, _next(day)).order_by(E.creator_id, E.currency, E.source)
    rows = _fill(connection, daily, {"day": stamp}, earned)
    _add(connection, day, 1)
    if nothing is not None:
        connection.execute(delete(lifetime).where(nothing))
    connection.execute(delete(platform_days).where(platform_days.c.day == day))
    c = daily.c
    # A creator has one row a day, currency and source.
    sums = {"day": stamp, "creators": func.count(), **_summed(daily)}
    by = {"source": c.source, "currency": c.currency}
    chosen = select(*_named(by | sums)).where(c.day == day).group_by(*by.values())
    connection.execute(_insert(connection, platform_days, [*by, *sums], chosen))
    return rows


def roll_month(tx: Tx, month: date) -> int:
    """Redo a month from its days; how many rows it has."""
    connection = _alone(tx)
    connection.execute(delete(monthly).where(monthly.c.month == month))
    stamp = {"month": literal(month, monthly.c.month.type)}
    return _fill(connection, monthly, stamp, _of_days(month))


def is_rolled(tx: Tx, month: date) -> bool:
    """Whether that month, or a later one, was rolled up: one without earnings has no rows."""
    return bool(connection_of(tx).scalar(select(exists().where(monthly.c.month >= month))))


def roll_months(tx: Tx, days: Iterable[date]) -> list[date]:
    """Redo the months that `days` are in, where they are rolled up already; which months."""
    months = sorted({day.replace(day=1) for day in days})
    again = [month for month in months if is_rolled(tx, month)]
    for month in again:
        roll_month(tx, month)
    return again


def check_month(tx: Tx, month: date) -> list[str]:
    """Where month, days, earnings and ledger differ, a sentence each; what is not posted, and days
    that are dirty, are differences."""
    connection = connection_of(tx)
    end, name = following(month), f"{month:%Y-%m}"
    rolled = select(*(monthly.c[n] for n in (*KEYS, *SUMS))).where(monthly.c.month == month)
    told = []
    for what, less, left, right in (
        ("month", "days", rolled, _of_days(month)),
        ("days", "earnings", _of_days(month), raw(month, end)),
    ):
        for row in connection.execute(_difference(left, right).limit(MAX_TOLD)):
            off = ", ".join(f"{n} {row._mapping[n]}" for n in SUMS if row._mapping[n])
            who = f"{row.creator_id} {row.currency} {row.source}"
            told.append(f"{name}, {who}: {what} less {less} is {off}")
    to_creator = Entry.credit.startswith(CREATOR, autoescape=True)
    start, stop = _moment(month), _moment(end)
    booked = (
        select(Entry.currency, case((to_creator, Entry.amount), else_=-Entry.amount).label("net"))
        .where(Entry.kind.in_(SHARE_KINDS), Entry.created_at >= start, Entry.created_at < stop)
        .subquery()
    )
    sides = union_all(
        select(monthly.c.currency, monthly.c.net).where(monthly.c.month == month),
        select(booked.c.currency, -booked.c.net),
    ).subquery()
    off_by = cast(func.sum(sides.c.net), BigInteger)
    by = select(sides.c.currency, off_by).group_by(sides.c.currency).order_by(sides.c.currency)
    for currency, net in connection.execute(by.having(func.sum(sides.c.net) != 0)):
        told.append(f"{name}, {currency}: month less ledger is net {net}")
    return told


def platform_day(tx: Tx, day: date) -> list[dict[str, Any]]:
    """The platform's day as it is rolled up, by currency and source."""
    c = platform_days.c
    columns = [c[name] for name in ("currency", "source", *SUMS, "creators")]
    chosen = select(*columns).where(c.day == day).order_by(c.currency, c.source)
    return [dict(row._mapping) for row in connection_of(tx).execute(chosen)]


def month_totals(tx: Tx, month: date) -> list[dict[str, Any]]:
    """A month as it is rolled up, by currency."""
    c = monthly.c
    chosen = select(c.currency, *_named(_summed(monthly))).where(c.month == month)
    by = chosen.group_by(c.currency).order_by(c.currency)
    return [dict(row._mapping) for row in connection_of(tx).execute(by)]


def plan_day_rollup(tx: Tx, day: date) -> dict[str, Any]:
    """What roll_day would write, and writes nothing: the platform's rows, and of the creators', in
    order of their keys, how many and the SHA-256 (one JSON list a line)."""
    rows = raw(day, _next(day)).subquery()
    of = rows.c
    platform = (
        select(of.currency, of.source, *_named({**_summed(rows), "creators": func.count()}))
        .group_by(of.currency, of.source)
        .order_by(of.currency, of.source)
    )
    told = [dict(row._mapping) for row in connection_of(tx).execute(platform)]
    return _day(tx, day, raw(day, _next(day)).order_by(E.creator_id, E.currency, E.source), told)


def rolled_day(tx: Tx, day: date) -> dict[str, Any]:
    """The same of what is rolled up."""
    c = daily.c
    every = select(*(c[name] for name in (*KEYS, *SUMS))).where(c.day == day)
    told = platform_day(tx, day)
    return _day(tx, day, every.order_by(c.creator_id, c.currency, c.source), told)


def _day(tx: Tx, day: date, every: AnySelect, platform: list[dict[str, Any]]) -> dict[str, Any]:
    digest = hashlib.sha256()
    paged = {"yield_per": _PAGE}
    for row in connection_of(tx).execute(every, execution_options=paged):
        digest.update(f"{canonical_json(list(row))}\n".encode())
    count = sum(one["creators"] for one in platform)
    return {
        "day": day.isoformat(),
        "rows": count,
        "sha256": digest.hexdigest(),
        "platform": platform,
    }


def following(month: date) -> date:
    """The month after it."""
    return (month + timedelta(days=31)).replace(day=1)


def raw(since: date, until: date) -> AnySelect:
    """The earnings of [since, until) summed up by creator, currency and source."""
    taking, sale = E.kind.in_(TAKING), E.kind == EarningKind.EARNING
    sums = {
        "gross": case((sale, E.gross), else_=0),
        "refunds": case((sale, 0), (taking, E.gross), else_=-E.gross),
        "fees": case((taking, -E.fee), else_=E.fee.expression),
        "net": case((taking, E.fee - E.gross), else_=E.gross - E.fee),
        "count": case((sale, 1), else_=0),
    }
    by = (E.creator_id, E.currency, E.source)
    return (
        select(*by, *_named({name: _total(of) for name, of in sums.items()}))
        .where(E.occurred_at >= _moment(since), E.occurred_at < _moment(until))
        .group_by(*by)
    )


def _of_days(month: date) -> AnySelect:
    c = daily.c
    by = [c[name] for name in KEYS]
    chosen = select(*by, *_named(_summed(daily)))
    return chosen.where(c.day >= month, c.day < following(month)).group_by(*by)


def _difference(left: AnySelect, right: AnySelect) -> AnySelect:
    """Left less right, where that is not nothing."""
    one, other = left.subquery().c, right.subquery().c
    sides = union_all(
        select(*one), select(*(other[k] for k in KEYS), *(-other[n] for n in SUMS))
    ).subquery()
    by = [sides.c[name] for name in KEYS]
    sums = _summed(sides)
    chosen = select(*by, *_named(sums)).group_by(*by).order_by(*by)
    return chosen.having(or_(*(total != 0 for total in sums.values())))


def _fill(
    connection: Connection, table: Table, stamp: Mapping[str, ColumnElement[Any]], source: AnySelect
) -> int:
    chosen = source.add_columns(*_named(stamp))
    insert = _insert(connection, table, [*KEYS, *SUMS, *stamp], chosen)
    return connection.execute(insert, execution_options=COUNTED).rowcount


def _add(connection: Connection, day: date, sign: int) -> None:
    """Add a day, or take it off, where lifetimes are concerned."""
    c = daily.c
    by = {"creator_id": c.creator_id, "currency": c.currency}
    sums = {name: sign * total for name, total in _summed(daily).items()}
    chosen = select(*_named(by | sums)).where(c.day == day).group_by(*by.values())
    insert = _insert(connection, lifetime, [*by, *sums], chosen)
    added = {name: lifetime.c[name] + insert.excluded[name] for name in SUMS}
    connection.execute(insert.on_conflict_do_update(index_elements=list(by), set_=added))


def _insert(connection: Connection, table: Table, names: list[str], source: AnySelect) -> Any:
    return INSERT[connection.dialect.name](table).from_select(names, source)


def _summed(of: Any) -> dict[str, ColumnElement[int]]:
    return {name: _total(of.c[name]) for name in SUMS}


def _total(of: ColumnElement[int] | Column[int]) -> ColumnElement[int]:
    # Postgres sums integers to a numeric.
    return cast(func.sum(of), BigInteger)


def _named(columns: Mapping[str, Any]) -> list[Any]:
    return [column.label(name) for name, column in columns.items()]


def _moment(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _next(day: date) -> date:
    return day + timedelta(days=1)


def _alone(tx: Tx) -> Connection:
    """One rollup at a time, until the transaction ends, and what speeds up its sorting."""
    connection = connection_of(tx)
    if connection.dialect.name == "postgresql":
        room = func.set_config("work_mem", _ROOM, True)
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK), room))
    else:  # which has one writer anyway
        connection.exec_driver_sql("PRAGMA threads = 1")
    return connection

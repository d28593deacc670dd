"""Counts what has happened since the last count: of ten million runs that have ended, a scrape
reads only those of the last few seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, literal_column, select, update

from app.switchyard.clock import moment
from app.switchyard.cutover.status import BACKENDS
from app.switchyard.db import INSERT, Database
from app.switchyard.runs.models import TAKEN_OVER, FailureRow, HandoffRow
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.tallies import Tally, add, tallies

BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
"""The upper bounds of the histograms' buckets, in seconds."""
INFINITE = "+Inf"
SUM = "sum"
"""The label of a histogram's total, in seconds."""
SETTLED = timedelta(seconds=30)
"""How old something must be to be counted. Whoever wrote it has committed by then."""
SELDOM = timedelta(seconds=5)
"""The shortest time between two counts, however often metrics are read."""
LONGEST = timedelta(hours=1)
"""The longest span that is counted. After a longer time without a scrape, only its end counts."""

_UNTIL = {"name": "until", "job": "", "backend": "", "label": ""}
"""Not a count: the time up to which everything has been counted, in Unix seconds."""
_IS_UNTIL = tallies.c.name == _UNTIL["name"]
_SINCE = select(tallies.c.value).where(_IS_UNTIL)
COUNTS = select(tallies).where(~_IS_UNTIL)
_F, _H = FailureRow, HandoffRow


def count(db: Database, jobs: Collection[str], now: datetime) -> None:
    """Add to the tallies what has happened to these jobs' runs since the last count.

    The first call only sets the time from which to count. Raises SQLAlchemy's errors.
    """
    until = now - SETTLED
    with db.autocommit() as connection:
        since = connection.scalar(_SINCE)
        if since is None:
            begin = INSERT[connection.dialect.name](tallies).on_conflict_do_nothing()
            connection.execute(begin, {**_UNTIL, "value": until.timestamp()})
    if since is None or until.timestamp() - since < SELDOM.total_seconds():
        return
    with db.begin() as connection:
        # Where two processes count at once, the second one waits here and then has nothing to do.
        counted = moment(connection.execute(_SINCE.with_for_update()).scalar_one()) or until
        if counted >= until:
            return
        span = {"since": max(counted, until - LONGEST), "until": until}
        counts: dict[Tally, float] = defaultdict(float)
        for statement in statements(connection.dialect.name, jobs):
            for row in connection.execute(statement, span):
                for tally, number in _tallied(*row):
                    counts[tally] += number
        add(connection, counts)
        connection.execute(update(tallies).where(_IS_UNTIL).values(value=until.timestamp()))


def _tallied(
    name: str,
    job: str,
    backend: str,
    label: str,
    number: int,
    wait: str | None = None,
    waited: float = 0.0,
    took: str | None = None,
    lasted: float = 0.0,
) -> Iterator[tuple[Tally, float]]:
    yield (name, job, backend, label), number
    for histogram, bucket, seconds in (("wait", wait, waited), ("took", took, lasted)):
        if bucket is not None:
            yield (histogram, job, backend, bucket), number
            yield (histogram, job, backend, SUM), seconds


def statements(dialect: str, jobs: Collection[str]) -> Iterator[Select[*tuple[Any, ...]]]:
    """The statements that count the rows between `since` and `until`. Each uses an index."""
    # A run that was given back after its claim has a later due time, so its wait is unknown.
    wait = f"CASE WHEN due_at <= started_at THEN {_seconds(dialect, 'due_at', 'started_at')} END"
    took = _seconds(dialect, "started_at", "ended_at")
    by = (R.job, R.backend, R.status, _bucket(wait, "wait"), _bucket(took, "took"))
    ended = (
        select(
            _text("ended"),
            *by[:3],
            func.count(),
            by[3],
            _sql(f"SUM({wait})"),
            by[4],
            _sql(f"SUM({took})"),
        )
        .where(*_within(R.ended_at))
        .group_by(*by)
    )
    # Written out, so that SQLite can use the partial indexes of ended runs.
    yield ended.where(
        _sql("status IN ('succeeded', 'failed')"), R.job.in_(jobs), R.backend.in_(BACKENDS)
    )
    yield ended.where(_sql("status = 'cancelled'"))
    for name, lost in (("failures", _F.error != TAKEN_OVER), ("takeovers", _F.error == TAKEN_OVER)):
        failed = select(_text(name), _F.job, _F.backend, _text(""), func.count())
        failed = failed.where(_F.job.in_(jobs), *_within(_F.at), lost)
        yield failed.group_by(_F.job, _F.backend)
    sides = (_H.job, _H.from_backend, _H.to_backend)
    moved = select(_text("handoffs"), *sides, func.count()).group_by(*sides)
    yield moved.where(_H.job.in_(jobs), *_within(_H.at))


def _within(at: Any) -> tuple[ColumnElement[bool], ...]:
    return at > bindparam("since", type_=at.type), at <= bindparam("until", type_=at.type)


def _sql(text: str) -> ColumnElement[Any]:
    return literal_column(text)


def _text(value: str) -> ColumnElement[str]:
    return _sql(f"'{value}'")


def _seconds(dialect: str, begin: str, end: str) -> str:
    if dialect == "sqlite":
        return f"(julianday({end}) - julianday({begin})) * 86400"
    return f"CAST(EXTRACT(EPOCH FROM {end} - {begin}) AS DOUBLE PRECISION)"


def _bucket(seconds: str, name: str) -> ColumnElement[str]:
    """The label of the smallest bound that is not below `seconds`, or NULL where they are NULL."""
    cases = [f"WHEN {seconds} <= {bound} THEN '{bound}'" for bound in BOUNDS]
    last = f"WHEN {seconds} > {BOUNDS[-1]} THEN '{INFINITE}'"
    return _sql(f"CASE {' '.join(cases)} {last} END").label(name)

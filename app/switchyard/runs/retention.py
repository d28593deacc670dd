"""Retention: deletes what no promise needs any longer, in bounded batches.

The row of a run stays for good: `(job, key)` keeps the same request harmless a year later, and a
run that has ended refuses every late delivery. The steps of a succeeded run serve only people.
Failed and cancelled runs keep theirs, since a retry continues from them. Failed attempts and
hand-offs serve only people, however their run ended.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from app.switchyard.runs.models import FailureRow, HandoffRow, Status, id_at
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S

BATCH = 5000
"""How many rows one transaction looks at, so that SQLite's lock is never held for long."""
Page = tuple[int, str | None]
"""How many rows were deleted, and the id after which the next batch begins, or None."""
Prune = Callable[[Session, datetime, str], Page]
"""Deletes the next batch after an id, of what ended before a time."""


def last_of(tx: Session, column: Any, after: str, before: datetime, *of: Any) -> str | None:
    """The last of the next BATCH run ids in `column` that were created before that time, or None.

    Rows that stay are thus looked at once a day rather than once a batch.
    """
    span = (column > after, column < id_at(before), *of)
    batch = select(column.label("id")).where(*span).order_by(column).limit(BATCH).subquery()
    last: str | None = tx.scalar(select(func.max(batch.c.id)))
    return last


def succeeded(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """The run succeeded before that time, so it never continues."""
    return R.status == Status.SUCCEEDED, R.ended_at < before


def prune_steps(tx: Session, before: datetime, after: str) -> Page:
    """Delete the steps of the next runs after run id `after` that had succeeded by that time."""
    last = last_of(tx, S.run_id, after, before)
    if last is None:
        return 0, None
    # Both tables are given the range, so that each is read by its primary key.
    done = select(R.id).where(R.id > after, R.id <= last, *succeeded(before))
    gone = delete(S).where(S.run_id > after, S.run_id <= last, S.run_id.in_(done))
    return tx.connection().execute(gone).rowcount, last


def prune_record(
    kind: type[FailureRow | HandoffRow], tx: Session, before: datetime, after: str
) -> Page:
    """Delete the next failed attempts, or hand-offs, after id `after` that are older than that
    time.

    Their ids grow with time: where nothing in a batch is old enough, nothing after it is.
    """
    first = int(after or 0)
    batch = (
        select(kind.id, kind.at).where(kind.id > first).order_by(kind.id).limit(BATCH).subquery()
    )
    last, oldest = tx.execute(select(func.max(batch.c.id), func.min(batch.c.at))).one()
    if last is None or oldest >= before:
        return 0, None
    gone = delete(kind).where(kind.id > first, kind.id <= last, kind.at < before)
    return tx.connection().execute(gone).rowcount, str(last)

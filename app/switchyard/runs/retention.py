"""Retention: what no promise needs any longer goes, a bounded batch at a time.

The row of a run stays for good: `(job, key)` is what makes the same intent a year later harmless,
and a run that is done with refuses every late delivery. Steps are read by a run that goes on, so
those of one that succeeded serve only people; failed and cancelled runs may be
retried and go on from theirs, which therefore stay. What is kept of failed attempts and of
hand-offs serves only people, whatever their run came to.
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
"""Rows looked at in one transaction: SQLite's lock is not held for long."""
Page = tuple[int, str | None]
"""How many rows went, and after which id the next batch begins; None: there is none."""
Prune = Callable[[Session, datetime, str], Page]
"""Deletes the next batch of what was done with before a time, after a run id."""


def last_of(tx: Session, column: Any, after: str, before: datetime, *of: Any) -> str | None:
    """The last of the next BATCH run ids in `column`, all made before that time; or None.

    What stays is thus looked at once a day, not once a batch.
    """
    span = (column > after, column < id_at(before), *of)
    batch = select(column.label("id")).where(*span).order_by(column).limit(BATCH).subquery()
    last: str | None = tx.scalar(select(func.max(batch.c.id)))
    return last


def succeeded(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Of a run: it succeeded, before that time. It will never go on."""
    return R.status == Status.SUCCEEDED, R.ended_at < before


def prune_steps(tx: Session, before: datetime, after: str) -> Page:
    """Delete the steps of the next runs after run id `after` that succeeded before that time."""
    last = last_of(tx, S.run_id, after, before)
    if last is None:
        return 0, None
    # The range is said of both tables: each is then read by its primary key.
    done = select(R.id).where(R.id > after, R.id <= last, *succeeded(before))
    gone = delete(S).where(S.run_id > after, S.run_id <= last, S.run_id.in_(done))
    return tx.connection().execute(gone).rowcount, last


def prune_record(
    kind: type[FailureRow | HandoffRow], tx: Session, before: datetime, after: str
) -> Page:
    """Delete the next failed attempts, or hand-offs, after id `after` that are of before that time.

    Their ids grow with time: where none of a batch is so old, none after it is.
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

"""What shadows found: what the serverless side would have done beside what the legacy side did."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, Index, String, Text, bindparam, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.switchyard.clock import iso
from app.switchyard.db import Base, Database
from app.switchyard.errors import BadInput
from app.switchyard.runs.create import SHADOW_JOB
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.retention import Page, last_of, succeeded


class Kind(StrEnum):
    """What became of one comparison."""

    PLANNED = "planned"
    """The plan is made; the live run has not ended yet."""
    EQUAL = "equal"
    DIFFERENT = "different"
    PLAN_FAILED = "plan_failed"
    """The plan, or the reading of what came of the live run, raised or tried an effect."""
    LIVE_FAILED = "live_failed"
    """The live run failed or was cancelled: there is nothing to compare with."""
    LIVE_OPEN = "live_open"
    """The live run did not end in the time a shadow waits."""


WRONG = (Kind.DIFFERENT, Kind.PLAN_FAILED)
"""What counts as a difference, and must be explained before a job is complete."""
COMPARED = (Kind.EQUAL, *WRONG)


class Parity(Base):
    """One live run and its shadow."""

    __tablename__ = "switchyard_parity"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str] = mapped_column(String(32), unique=True)
    """The live run's."""
    kind: Mapped[str] = mapped_column(String(20))
    planned_at: Mapped[datetime]
    compared_at: Mapped[datetime | None]
    planned: Mapped[str | None] = mapped_column(Text)
    """What the serverless side would leave behind, as JSON, until it has been compared."""
    found: Mapped[str | None] = mapped_column(Text)
    """The first differences, with both sides, as JSON."""
    differing: Mapped[int] = mapped_column(default=0)
    """How many fields differ."""
    error: Mapped[str | None] = mapped_column(Text)
    explained_at: Mapped[datetime | None]
    explained_by: Mapped[str | None] = mapped_column(String(100))
    explained_why: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(
            f"kind IN ({', '.join(repr(str(kind)) for kind in Kind)})", name="known_kind"
        ),
        Index("ix_switchyard_parity_kind", "job", "kind", "explained_at"),
    )


P = Parity
COUNTS = (
    select(P.job, P.kind, func.count(), func.count(P.explained_at))
    .group_by(P.job, P.kind)
    .order_by(P.job, P.kind)
)
UNEXPLAINED = (
    select(P.id)
    .where(P.job == bindparam("job"), P.kind.in_(WRONG), P.explained_at.is_(None))
    .order_by(P.id)
)
"""What a job's gate waits for."""


def counts(db: Database) -> dict[str, dict[str, int]]:
    """By job: how many runs were compared, how many of them differ, and how many of those nobody
    has explained."""
    found: dict[str, dict[str, int]] = {}
    with db.autocommit() as connection:
        for job, kind, number, explained in connection.execute(COUNTS):
            of = found.setdefault(job, dict.fromkeys(("compared", "different", "unexplained"), 0))
            of["compared"] += number if kind in COMPARED else 0
            of["different"] += number if kind in WRONG else 0
            of["unexplained"] += number - explained if kind in WRONG else 0
    return found


def listed(db: Database, job: str, kinds: Collection[str], limit: int) -> list[dict[str, Any]]:
    """A job's comparisons of these kinds, newest first, as `cutover parity --json` has them."""
    chosen = select(P).where(P.job == job, P.kind.in_(kinds)).order_by(P.id.desc()).limit(limit)
    with db.session() as tx:
        return [_document(row) for row in tx.scalars(chosen)]


def _document(row: Parity) -> dict[str, Any]:
    explained = None
    if row.explained_at is not None:
        explained = {
            "at": iso(row.explained_at),
            "by": row.explained_by,
            "why": row.explained_why,
        }
    return {
        "id": row.id,
        "job": row.job,
        "run": row.run_id,
        "kind": row.kind,
        "planned_at": iso(row.planned_at),
        "compared_at": iso(row.compared_at),
        "differing": row.differing,
        "differences": json.loads(row.found or "[]"),
        "error": row.error,
        "explained": explained,
    }


def explain(
    db: Database, ids: Sequence[int], job: str | None, *, by: str, why: str, now: datetime
) -> int:
    """Say why these differ, or all of `job` that nobody has explained; how many that was.

    Raises BadInput where an id is not of a difference, or was explained before; nothing is changed.
    """
    if not why.strip():
        raise BadInput("say why: the gate takes your word for it")
    mark = update(P).where(P.kind.in_(WRONG), P.explained_at.is_(None))
    mark = mark.where(P.id.in_(ids) if job is None else P.job == job)
    told = {"explained_at": now, "explained_by": by, "explained_why": why.strip()}
    with db.begin() as connection:
        done = set(connection.scalars(mark.values(told).returning(P.id)))
        if job is None and (missing := sorted(set(ids) - done)):
            listed = ", ".join(map(str, missing))
            raise BadInput(f"not a difference that is still to be explained: {listed}")
    return len(done)


def prune_shadows(tx: Session, before: datetime, after: str) -> Page:
    """Delete the next shadows of live runs after run id `after` that are done since before that
    time, and what they found; a difference stays, with its shadow, until it was explained so long
    ago. No new one comes of that: a shadow is written with its live run, whose row stays."""
    last = last_of(tx, R.key, after, before, R.job == SHADOW_JOB)
    if last is None:
        return 0, None
    found, shadows = (P.run_id > after, P.run_id <= last), (R.key > after, R.key <= last)
    settled = P.kind.in_((Kind.EQUAL, Kind.LIVE_FAILED, Kind.LIVE_OPEN)) & (P.compared_at < before)
    connection = tx.connection()
    connection.execute(delete(P).where(*found, settled | (P.explained_at < before)))
    left = R.key.in_(select(P.run_id).where(*found))
    gone = delete(R).where(R.job == SHADOW_JOB, *shadows, *succeeded(before), ~left)
    return connection.execute(gone).rowcount, last


def live_run(run_id: str) -> Any:
    """The statement that finds a live run."""
    columns = (R.id, R.job, R.payload, R.status, R.result, R.error, R.started_at, R.check_at)
    return select(*columns).where(R.id == run_id)

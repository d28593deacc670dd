"""Shadow: the plan of a job on the serverless side, beside what its live run on RQ left behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, cast

from sqlalchemy import (
    CheckConstraint,
    Index,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.switchyard import effects, runtime
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.db import INSERT, Base, Database, canonical_json
from app.switchyard.errors import BadInput, EffectHeld, NonRetriable
from app.switchyard.job import JobSpec, Shadow
from app.switchyard.runs.create import SHADOW_JOB
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.retention import Page, last_of, succeeded

log = logging.getLogger(__name__)

KEPT = 100
"""Differences kept of one comparison; the others are counted."""
_ERROR_LENGTH = 2000
_ABSENT = object()


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


def plan(tx: Session, ctx: Context, run_id: str) -> dict[str, Any]:
    """Keep what the serverless side would leave behind, as a step; `done` where it cannot say."""
    made = runtime.current()
    live = _live(made.db, run_id)
    if live is None:
        raise NonRetriable(f"no run {run_id!r} to shadow")
    spec = made.catalogue[live.job]
    # The live run's own time, once it has one: what is due by then is what it does.
    now = live.started_at or ctx.now()
    planned, error = _evaluate(made.db, lambda reading: _planned(reading, spec, live, now))
    kind = Kind.PLANNED if error is None else Kind.PLAN_FAILED
    row = {
        "job": live.job,
        "run_id": run_id,
        "kind": kind,
        "planned_at": ctx.now(),
        "planned": planned,
        "differing": 0,
        "error": error,
    }
    insert = INSERT[tx.get_bind().dialect.name](cast(Table, Parity.__table__))
    tx.execute(insert.values(row).on_conflict_do_nothing(index_elements=["run_id"]))
    return {"done": error is not None, "kind": kind}


def _planned(tx: Session, spec: JobSpec, live: Any, now: Any) -> dict[str, Any]:
    if spec.plan is None:
        raise NonRetriable(f"{spec.name} has no plan")
    found = spec.plan(tx, spec.parse(json.loads(live.payload), strict=False), now)
    return found if spec.shadow.planned is None else spec.shadow.planned(found)


def compare(tx: Session, ctx: Context, run_id: str, last: bool) -> dict[str, Any]:
    """Compare, once the live run has ended, as a step; `done` says whether it had."""
    made = runtime.current()
    live = _live(made.db, run_id)
    if live is not None and live.check_at is not None and not last:
        return {"done": False, "kind": Kind.PLANNED}
    found = _compared(made.db, made.catalogue, live, run_id)
    told = {**found, "compared_at": ctx.now(), "planned": None}
    tx.execute(update(P).where(P.run_id == run_id, P.kind == Kind.PLANNED).values(told))
    if found["kind"] in (Kind.DIFFERENT, Kind.PLAN_FAILED):
        log.warning("shadow differs", extra={"run": run_id, "differing": found["differing"]})
    return {"done": True, "kind": found["kind"], "differing": found["differing"]}


def _compared(db: Database, catalogue: Any, live: Any, run_id: str) -> dict[str, Any]:
    """The columns of the comparison's row."""
    nothing = {"found": None, "differing": 0, "error": None}
    if live is None or live.check_at is not None:
        said = "it has not ended" if live is not None else "it is no longer on record"
        return nothing | {"kind": Kind.LIVE_OPEN, "error": said}
    if live.status != Status.SUCCEEDED:
        error = (live.error or live.status)[:_ERROR_LENGTH]
        return nothing | {"kind": Kind.LIVE_FAILED, "error": error}
    spec: JobSpec = catalogue[live.job]
    outcome, error = _evaluate(db, lambda reading: _outcome(reading, spec, live))
    if outcome is None:
        return nothing | {"kind": Kind.PLAN_FAILED, "error": error}
    with db.autocommit() as connection:
        kept = connection.scalar(select(Parity.planned).where(Parity.run_id == run_id))
    both = differences(json.loads(kept or "{}"), json.loads(outcome), spec.shadow)
    first = list(islice(both, KEPT))
    if not first:
        return nothing | {"kind": Kind.EQUAL}
    return {
        "kind": Kind.DIFFERENT,
        "found": canonical_json(first),
        "differing": len(first) + sum(1 for _ in both),
        "error": None,
    }


def _outcome(tx: Session, spec: JobSpec, live: Any) -> dict[str, Any]:
    result = json.loads(live.result)
    if spec.shadow.outcome is None:
        return dict(result)
    payload = spec.parse(json.loads(live.payload), strict=False)
    return spec.shadow.outcome(tx, payload, result)


def _live(db: Database, run_id: str) -> Any:
    with db.autocommit() as connection:
        return connection.execute(live_run(run_id)).one_or_none()


def _evaluate(
    db: Database, say: Callable[[Session], dict[str, Any]]
) -> tuple[str | None, str | None]:
    """What `say` says, as JSON, or what went wrong. It reads one moment and changes nothing:
    writes are refused by the database, other effects by whoever has them."""
    try:
        with db.reading() as tx, effects.held() as tried:
            said = canonical_json(say(tx))
    except DBAPIError as failure:
        if failure.connection_invalidated:
            raise
        return None, f"{type(failure.orig).__name__}: {failure.orig}"[:_ERROR_LENGTH]
    except Exception as failure:  # noqa: BLE001 - whatever a plan raises is what was found
        return None, f"{type(failure).__name__}: {failure}"[:_ERROR_LENGTH]
    if tried:
        return None, f"{EffectHeld.__name__}: it tried {', '.join(tried)}"[:_ERROR_LENGTH]
    return said, None


def differences(
    planned: Mapping[str, Any], live: Mapping[str, Any], how: Shadow
) -> Iterator[dict[str, Any]]:
    """Each field that differs, with both sides; a side that has no such field is left out."""
    yield from _differences("", planned, live, how)


def _differences(path: str, one: Any, other: Any, how: Shadow) -> Iterator[dict[str, Any]]:
    if path and any(fnmatchcase(path, ignored) for ignored in how.ignore):
        return
    ones, others = _fields(one), _fields(other)
    if ones is not None and others is not None and type(one) is type(other):
        for name in sorted(ones.keys() | others.keys()):
            below = f"{path}.{name}" if path else name
            left, right = ones.get(name, _ABSENT), others.get(name, _ABSENT)
            yield from _differences(below, left, right, how)
    elif not _same(path, one, other, how):
        sides = {"planned": one, "live": other}
        yield {"field": path, **{n: side for n, side in sides.items() if side is not _ABSENT}}


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {f"{number}": each for number, each in enumerate(value)}
    return None


def _same(path: str, one: Any, other: Any, how: Shadow) -> bool:
    if _number(one) and _number(other):
        allowed = [by for field, by in how.tolerance.items() if fnmatchcase(path, field)]
        return bool(abs(one - other) <= max(allowed, default=0))
    return type(one) is type(other) and bool(one == other)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Shadow: compares a job's plan on the serverless side with what its live run on RQ left behind."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, cast

from sqlalchemy import (
    CheckConstraint,
    Index,
    ScalarSelect,
    Select,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.switchyard import audit, effects
from app.switchyard.audit import By
from app.switchyard.context import Context
from app.switchyard.db import (
    INSERT,
    Base,
    Database,
    as_bigint,
    canonical_json,
    distinct,
    partial_index,
)
from app.switchyard.errors import BadInput, EffectHeld, NonRetriable
from app.switchyard.job import Catalogue, JobSpec, Shadow
from app.switchyard.logs import logger_of
from app.switchyard.runs.models import AnyRow, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.retention import Page, last_of, succeeded
from app.switchyard.runs.store import SHADOW_JOB
from app.switchyard.runtime import current
from app.switchyard.text import error_of

log = logger_of(__name__)

KEPT = 100
"""How many differences of one comparison are kept. The others are only counted."""
_ERROR_LENGTH = 2000
_ABSENT = object()


class Kind(StrEnum):
    """The outcome of a comparison."""

    PLANNED = "planned"
    """The plan was made, but the live run has not ended yet."""
    EQUAL = "equal"
    DIFFERENT = "different"
    PLAN_FAILED = "plan_failed"
    """The plan, or the function that reads the live run's outcome, raised or tried an effect."""
    LIVE_FAILED = "live_failed"
    """The live run failed or was cancelled, so there is nothing to compare with."""
    LIVE_OPEN = "live_open"
    """The live run did not end within the time that a shadow waits."""


WRONG = (Kind.DIFFERENT, Kind.PLAN_FAILED)
"""These count as differences, which must be explained before a job is complete."""
COMPARED = (Kind.EQUAL, *WRONG)
_IS_WRONG = f"kind IN ({', '.join(repr(str(kind)) for kind in WRONG)})"
_IS_UNEXPLAINED = f"{_IS_WRONG} AND explained_at IS NULL"
"""As text, since SQLite uses a partial index only for the condition that it was made with."""


class Parity(Base):
    """A live run and its shadow."""

    __tablename__ = "switchyard_parity"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str] = mapped_column(String(32), unique=True)
    """The live run's id."""
    kind: Mapped[str] = mapped_column(String(20))
    planned_at: Mapped[datetime]
    compared_at: Mapped[datetime | None]
    planned: Mapped[str | None] = mapped_column(Text)
    """What the serverless side would leave behind, as JSON. None once it has been compared."""
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
        Index("ix_switchyard_parity_latest", "job", "id", "kind"),
        partial_index("ix_switchyard_parity_unexplained", "job", where=_IS_UNEXPLAINED),
    )


P = Parity
MOST_COUNTED = 10_000
"""How many of a job's shadows are counted, the latest ones. Pages count every few seconds, and a
job may have a million."""
_job = distinct(P.job).subquery("jobs")
_shadows = select(P.kind).where(P.job == _job.c.value).limit(bindparam("most")).correlate(_job)
_LATEST = _shadows.order_by(P.id.desc())
_UNEXPLAINED = _shadows.where(text(_IS_UNEXPLAINED))


def _count(some: Select[str], kinds: Collection[Kind]) -> ScalarSelect[int]:
    one = some.subquery()
    counted = select(func.count()).select_from(one).where(one.c.kind.in_(kinds))
    return counted.scalar_subquery()


COUNTS = select(
    _job.c.value.label("job"),
    _count(_LATEST, COMPARED).label("compared"),
    _count(_LATEST, WRONG).label("different"),
    _count(_UNEXPLAINED, WRONG).label("unexplained"),
)


def counts(db: Database) -> defaultdict[str, dict[str, int]]:
    """By job, how many of its latest MOST_COUNTED shadows compared, and how many of those differ;
    and, whenever they were, up to as many differences that are not explained."""
    none = {"compared": 0, "different": 0, "unexplained": 0}
    jobs = defaultdict[str, dict[str, int]](none.copy)
    for job, compared, different, unexplained in db.rows(COUNTS, {"most": MOST_COUNTED}):
        jobs[job] = {"compared": compared, "different": different, "unexplained": unexplained}
    return jobs


def unexplained(db: Database, job: str) -> int:
    """How many of the job's differences nobody has explained, up to MOST_COUNTED."""
    some = select(P.id).where(P.job == job, text(_IS_UNEXPLAINED)).limit(MOST_COUNTED)
    return int(db.value(select(func.count()).select_from(some.subquery())))


def listed(db: Database, job: str, kinds: Collection[str], limit: int) -> list[dict[str, Any]]:
    """A job's comparisons of these kinds, newest first, as in `cutover parity --json`."""
    columns = (P.id, P.job, P.run_id.label("run"), P.kind, P.planned_at, P.compared_at)
    how = (P.differing, P.found.label("differences"), P.error)
    explained = (P.explained_at, P.explained_by, P.explained_why)
    chosen = select(*columns, *how, *explained).where(P.job == job, P.kind.in_(kinds))
    rows = db.rows(chosen.order_by(P.id.desc()).limit(limit))
    return [_document(row._asdict()) for row in rows]


def _document(row: dict[str, Any]) -> dict[str, Any]:
    explained = {name: row.pop(f"explained_{name}") for name in ("at", "by", "why")}
    return row | {
        "differences": json.loads(row["differences"] or "[]"),
        "explained": None if explained["at"] is None else explained,
    }


def explain(db: Database, ids: Sequence[int], job: str | None, by: By, now: datetime) -> int:
    """Explain these differences, or all unexplained ones of `job`. Returns how many there were.

    Raises BadInput, and changes nothing, where an id is not that of an unexplained difference or no
    reason is given.
    """
    if not by.why:
        raise BadInput("say why: the gate takes your word for it")
    mark = update(P).where(P.kind.in_(WRONG), P.explained_at.is_(None))
    mark = mark.where(P.id.in_(map(as_bigint, ids)) if job is None else P.job == job)
    values = {"explained_at": now, "explained_by": by.who, "explained_why": by.why}
    with db.begin() as connection:
        done = {
            row.id: row.job
            for row in connection.execute(mark.values(values).returning(P.id, P.job))
        }
        if job is None and (missing := sorted(set(ids) - done.keys())):
            numbers = ", ".join(map(str, missing))
            raise BadInput(f"not an unexplained difference: {numbers}")
        for name, count in Counter(done.values()).items():
            audit.record(connection, "explain", by, now, job=name, count=count)
    return len(done)


def prune_shadows(tx: Session, before: datetime, after: str) -> Page:
    """Delete the next shadows, of live runs after run id `after`, that succeeded before that time,
    with their comparisons. A difference and its shadow stay until it has been explained for so
    long. No shadow comes back: it is created only with its live run, whose row stays."""
    last = last_of(tx, R.key, after, before, R.job == SHADOW_JOB)
    if last is None:
        return 0, None
    page, shadows = (P.run_id > after, P.run_id <= last), (R.key > after, R.key <= last)
    settled = P.kind.in_((Kind.EQUAL, Kind.LIVE_FAILED, Kind.LIVE_OPEN)) & (P.compared_at < before)
    connection = tx.connection()
    connection.execute(delete(P).where(*page, settled | (P.explained_at < before)))
    left = R.key.in_(select(P.run_id).where(*page))
    gone = delete(R).where(R.job == SHADOW_JOB, *shadows, *succeeded(before), ~left)
    return connection.execute(gone).rowcount, last


def plan(tx: Session, ctx: Context, run_id: str) -> dict[str, Any]:
    """Store, as a step, what the serverless side would leave behind. A failure sets `done`."""
    runtime = current()
    live = _live_run(runtime.db, run_id)
    if live is None:
        raise NonRetriable(f"no run {run_id!r} to shadow")
    spec = runtime.catalogue[live.job]
    # The time at which the live run began, if it has: it does what is due by then.
    now = live.started_at or ctx.now()
    planned, error = _evaluate(runtime.db, lambda reading: _planned(reading, spec, live, now))
    kind = Kind.PLANNED if error is None else Kind.PLAN_FAILED
    row = {"job": live.job, "run_id": run_id, "kind": kind, "planned_at": ctx.now()}
    insert = INSERT[tx.get_bind().dialect.name](cast(Table, Parity.__table__))
    row |= {"planned": planned, "differing": 0, "error": error}
    tx.execute(insert.values(row).on_conflict_do_nothing(index_elements=["run_id"]))
    return {"done": error is not None, "kind": kind}


def _planned(tx: Session, spec: JobSpec, live: AnyRow, now: datetime) -> dict[str, Any]:
    if spec.plan is None:
        raise NonRetriable(f"{spec.name} has no plan")
    planned = spec.plan(tx, spec.parse(json.loads(live.payload), strict=False), now)
    return planned if spec.shadow.planned is None else spec.shadow.planned(planned)


def compare(tx: Session, ctx: Context, run_id: str, last: bool) -> dict[str, Any]:
    """A step that compares once the live run has ended. Until then, or the `last` try, it returns
    a false `done`."""
    runtime = current()
    live = _live_run(runtime.db, run_id)
    if live is not None and live.check_at is not None and not last:
        return {"done": False, "kind": Kind.PLANNED}
    nothing = {"found": None, "differing": 0, "error": None}
    seen = nothing | _compared(runtime.db, runtime.catalogue, live, run_id)
    mark = update(P).where(P.run_id == run_id, P.kind == Kind.PLANNED)
    tx.execute(mark.values(**seen, compared_at=ctx.now(), planned=None))
    if seen["kind"] in WRONG:
        log.warning("shadow differs", extra={"run": run_id, "differing": seen["differing"]})
    return {"done": True, "kind": seen["kind"], "differing": seen["differing"]}


def _compared(
    db: Database, catalogue: Catalogue, live: AnyRow | None, run_id: str
) -> dict[str, Any]:
    if live is None:
        return {"kind": Kind.LIVE_OPEN, "error": "the run is no longer on record"}
    if live.check_at is not None:
        return {"kind": Kind.LIVE_OPEN, "error": "the run has not ended"}
    if live.status != Status.SUCCEEDED:
        return {"kind": Kind.LIVE_FAILED, "error": (live.error or live.status)[:_ERROR_LENGTH]}
    spec = catalogue[live.job]
    outcome, error = _evaluate(db, lambda reading: _outcome(reading, spec, live))
    if outcome is None:
        return {"kind": Kind.PLAN_FAILED, "error": error}
    planned = db.value(select(P.planned).where(P.run_id == run_id))
    both = differences(json.loads(planned or "{}"), json.loads(outcome), spec.shadow)
    first = list(islice(both, KEPT))
    if not first:
        return {"kind": Kind.EQUAL}
    differing = len(first) + sum(1 for _ in both)
    return {"kind": Kind.DIFFERENT, "found": canonical_json(first), "differing": differing}


def _outcome(tx: Session, spec: JobSpec, live: AnyRow) -> dict[str, Any]:
    result = json.loads(live.result)
    if spec.shadow.outcome is None:
        return dict(result)
    payload = spec.parse(json.loads(live.payload), strict=False)
    return spec.shadow.outcome(tx, payload, result)


def _live_run(db: Database, run_id: str) -> AnyRow | None:
    columns = (R.job, R.payload, R.status, R.result, R.error, R.started_at, R.check_at)
    return next(iter(db.rows(select(*columns).where(R.id == run_id))), None)


def _evaluate(
    db: Database, say: Callable[[Session], dict[str, Any]]
) -> tuple[str | None, str | None]:
    """Returns what `say` returns, as JSON, or what went wrong. It reads one snapshot and changes
    nothing: the database refuses writes, and every other effect refuses itself."""
    try:
        with db.reading() as tx, effects.held() as tried:
            said = canonical_json(say(tx))
        if tried:
            raise EffectHeld(f"it tried {', '.join(tried)}")
    except DBAPIError as failure:
        if failure.connection_invalidated:
            raise
        return None, error_of(failure.orig or failure)[:_ERROR_LENGTH]
    except Exception as failure:  # noqa: BLE001 - a plan may raise anything
        return None, error_of(failure)[:_ERROR_LENGTH]
    return said, None


def differences(planned: Any, live: Any, how: Shadow, path: str = "") -> Iterator[dict[str, Any]]:
    """Each field that differs, with both sides. A side without the field is left out."""
    if path and any(fnmatchcase(path, ignored) for ignored in how.ignore):
        return
    ours, theirs = _fields(planned), _fields(live)
    if ours is not None and theirs is not None and type(planned) is type(live):
        for name in sorted(ours.keys() | theirs.keys()):
            sides = ours.get(name, _ABSENT), theirs.get(name, _ABSENT)
            yield from differences(*sides, how, f"{path}.{name}" if path else name)
    elif not _same(path, planned, live, how):
        both = {"planned": planned, "live": live}
        yield {"field": path, **{n: side for n, side in both.items() if side is not _ABSENT}}


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {f"{number}": each for number, each in enumerate(value)}
    return None


def _same(path: str, one: Any, other: Any, how: Shadow) -> bool:
    if _is_number(one) and _is_number(other):
        allowed = [by for field, by in how.tolerance.items() if fnmatchcase(path, field)]
        return bool(abs(one - other) <= max(allowed, default=0))
    return type(one) is type(other) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

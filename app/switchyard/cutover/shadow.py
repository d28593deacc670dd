"""Shadow: the plan of a job on the serverless side, beside what its live run on RQ left behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, cast

from sqlalchemy import Table, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.switchyard import effects, runtime
from app.switchyard.context import Context
from app.switchyard.cutover.parity import Kind, Parity, live_run
from app.switchyard.db import INSERT, Database, canonical_json
from app.switchyard.errors import EffectHeld
from app.switchyard.job import JobSpec, Shadow
from app.switchyard.job_errors import NonRetriable
from app.switchyard.runs.models import Status

log = logging.getLogger(__name__)

KEPT = 100
"""Differences kept of one comparison; the others are counted."""
_ERROR_LENGTH = 2000
_ABSENT = object()


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
    P = Parity
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

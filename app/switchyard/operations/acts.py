"""What an operator does. Console, API and commands share one function for each act, which records
who acted, why, and how many runs were moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.context import Payload
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover.drain import Drain, Drained
from app.switchyard.cutover.stages import StageChange, set_stage
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.http import loads
from app.switchyard.runs.store import Run
from app.switchyard.runtime import Runtime, using
from flags import Side

BATCH = 200
"""How many runs one call from the console or the API moves. The next call continues."""


def stage(
    runtime: Runtime,
    job: str,
    to: str,
    percent: float | None,
    by: By,
    *,
    expected: int | None = None,
    force: bool = False,
) -> StageChange:
    """Move a job to a stage. Open runs stay where they are. Raises UnknownJob, and the errors of
    set_stage()."""
    name, now = runtime.catalogue[job].name, runtime.store.clock()
    return set_stage(runtime.db, name, to, percent, by, now, expected=expected, force=force)


def would_move(runtime: Runtime, job: str | None, to: Side) -> int:
    """How many open runs of the job and below it (None: of all jobs) are not on side `to`. A drain
    to that side moves them, and so does a rollback if it is RQ."""
    left = Drain(runtime, job, to, running=True).left()
    return sum(count for name, count in left.items() if name in runtime.catalogue)


@dataclass(slots=True)
class Ongoing:
    """One batch of an act."""

    act: int
    """The act's id in the audit, which the next batch needs."""
    count: int = 0
    """How many runs this batch touched."""


@contextmanager
def ongoing(runtime: Runtime, kind: str, by: By, act: int | None, **what: Any) -> Iterator[Ongoing]:
    """One batch of an act. The act is recorded once, before its first batch, and each batch adds to
    its count. Raises BadInput where `act`, which a later batch passes, is not this author's."""
    with runtime.db.begin() as connection:
        if act is None:
            now = runtime.store.clock()
            act = audit.record(connection, kind, by, now, count=0, **what)
        else:
            audit.add(connection, act, kind, by, 0)
    batch = Ongoing(act)
    try:
        yield batch
    finally:
        with runtime.db.begin() as connection:
            audit.add(connection, act, kind, by, batch.count)


def drain(work: Drain, by: By, act: int | None = None) -> Drained:
    """Move open runs to the other side, as `work` says: with a limit one batch of them. The next
    batch passes the same `act`. Raises BackendUnavailable where a target does not answer."""
    specs = [work.runtime.catalogue[name] for name in work.misplaced()]
    for backend in {drains.backend_on(work.to, spec) for spec in specs}:
        work.runtime.store.backends[backend].ping()
    with ongoing(work.runtime, "drain", by, act, job=work.job, detail={"to": work.to}) as batch:
        drained = work()
        batch.count = drained.touched
    return replace(drained, act=batch.act, done=not drained.left)


def rollback(work: Drain, by: By, act: int | None = None) -> Drained:
    """Flip the jobs of `work` to legacy and bring back open runs: all of them, or with a limit one
    batch, as drain() does. Raises StageRefused, and BadInput where no reason is given."""
    flip = [*work.runtime.catalogue] if work.job is None else [work.job]
    what: dict[str, Any] = {"job": work.job, "detail": {"to": work.to}}
    with ongoing(work.runtime, "rollback", by.with_reason(), act, **what) as batch:
        drained = drains.rollback(flip, work, by)
        batch.count = drained.touched
    done = not drained.left and (work.limit is None or drains.is_seen(work.runtime, flip))
    return replace(drained, act=batch.act, done=done)


def parse_payload(text: str | None) -> dict[str, Any] | None:
    """Parse a payload that a person wrote. Raises BadInput where it is not a JSON object."""
    if text is None:
        return None
    try:
        value = loads(text, "the payload")
    except ValueError as failure:
        raise BadInput(f"the payload is not JSON: {failure}") from None
    if not isinstance(value, dict):
        raise BadInput('the payload must be a JSON object, like \'{"to": "…"}\'')
    return value


def run_now(runtime: Runtime, job: str, data: Payload | None, by: By) -> Run:
    """Dispatch a run of the job: without `data`, the one that its schedule would start now. Returns
    the existing run where its payload's key was used before. Raises the errors of dispatch()."""
    spec, payload = runtime.catalogue[job], data
    if payload is None and spec.tick is not None and spec.schedule is not None:
        payload = spec.tick(spec.occurrence_at(runtime.store.clock()))
    with using(runtime):
        run = dispatch(spec.name, payload)
    what: dict[str, Any] = {"job": run.job, "run_id": run.id, "count": int(run.created)}
    with runtime.db.begin() as connection:
        audit.record(connection, "run", by, runtime.store.clock(), **what)
    return run

"""What an operator does: one function for page, API and command, each with who and why, each on
record with how many runs it moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.context import Payload
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover.drain import Drain, Drained
from app.switchyard.cutover.stages import StageChange, set_stage
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.runs.create import Run
from app.switchyard.runtime import Runtime, using
from flags import Side

BATCH = 200
"""Runs that one call of a page or of the API moves: the next one goes on."""


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
    """Move a job to a stage; runs that are open stay where they are. Raises UnknownJob, and as
    set_stage() does."""
    name, now = runtime.catalogue[job].name, runtime.store.clock()
    return set_stage(runtime.db, name, to, percent, by, now, expected=expected, force=force)


def would_move(runtime: Runtime, job: str | None, to: Side) -> int:
    """How many open runs of the job and below it (None: of all jobs) are not on side `to`: what a
    drain there moves, and for RQ a rollback."""
    left = Drain(runtime, job, to, running=True).left()
    return sum(count for name, count in left.items() if name in runtime.catalogue)


@dataclass(slots=True)
class Ongoing:
    """One batch of an act."""

    act: int
    """The act's place in the audit, to go on with."""
    count: int = 0
    """How many it was done to in this batch."""


@contextmanager
def ongoing(runtime: Runtime, kind: str, by: By, act: int | None, **what: Any) -> Iterator[Ongoing]:
    """One batch of an act, which is on record once: before its first batch, and each adds to how
    many it was done to. Raises BadInput where `act`, of a later batch, is not theirs."""
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


@dataclass(frozen=True, slots=True)
class Moving:
    """How far a drain or a rollback is."""

    act: int
    """Its place in the audit, to go on with."""
    drained: Drained
    done: bool
    """Else it is to be called again, after a second."""


def drain(work: Drain, by: By, act: int | None = None) -> Moving:
    """Move what is open to the other side, as `work` says; with its limit, one batch, and the next
    one is given the same `act`. Raises BackendUnavailable where nobody is there to take it."""
    specs = [work.runtime.catalogue[name] for name in work.misplaced()]
    for backend in {drains.backend_on(work.to, spec) for spec in specs}:
        work.runtime.store.backends[backend].ping()
    with ongoing(work.runtime, "drain", by, act, job=work.job, detail={"to": work.to}) as batch:
        drained = work()
        batch.count = drained.touched
    return Moving(batch.act, drained, done=not drained.left)


def rollback(work: Drain, by: By, act: int | None = None) -> Moving:
    """Flip the jobs of `work` to legacy and bring back what is open, running or not: all of it, or
    with its limit one batch, as drain() does. Raises StageRefused."""
    flip = [*work.runtime.catalogue] if work.job is None else [work.job]
    what: dict[str, Any] = {"job": work.job, "detail": {"to": work.to}}
    with ongoing(work.runtime, "rollback", by.with_reason(), act, **what) as batch:
        drained = drains.rollback(flip, work, by)
        batch.count = drained.touched
    done = not drained.left and (work.limit is None or drains.is_seen(work.runtime, flip))
    return Moving(batch.act, drained, done)


def parse_payload(text: str | None) -> dict[str, Any] | None:
    """A payload that somebody has written, as the mapping it must be. Raises BadInput."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise BadInput(f"the payload is not JSON: {failure}") from None
    if not isinstance(value, dict):
        raise BadInput('the payload must be a JSON object, like \'{"to": "…"}\'')
    return value


def run_now(runtime: Runtime, job: str, data: Payload | None, by: By) -> Run:
    """A new run of the job; without `data`, of what its schedule would do now. A key that its
    payload says may be known. Raises as dispatch() does."""
    spec, payload = runtime.catalogue[job], data
    if payload is None and spec.tick is not None and spec.schedule is not None:
        payload = spec.tick(spec.occurrence_at(runtime.store.clock()))
    with using(runtime):
        run = dispatch(spec.name, payload)
    what: dict[str, Any] = {"job": run.job, "run_id": run.id, "count": int(run.created)}
    with runtime.db.begin() as connection:
        audit.record(connection, "run", by, runtime.store.clock(), **what)
    return run

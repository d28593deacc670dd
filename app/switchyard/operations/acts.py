"""What an operator does: one function for page, API and command, each with who and why, each on
record with how many runs it moved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection

from app.switchyard import audit
from app.switchyard.context import Payload
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover.drain import Drain, Drained
from app.switchyard.cutover.stages import (
    BY_LENGTH,
    GUARDRAIL,
    WHY,
    WHY_LENGTH,
    StageChange,
    set_stage,
)
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.runs import operate
from app.switchyard.runs.create import Run
from app.switchyard.runtime import Runtime, using
from app.switchyard.text import plain
from flags import Side

BATCH = 200
"""Runs that one call of a page or of the API moves: the next one goes on."""


@dataclass(frozen=True, slots=True)
class By:
    """Who does it, and why. Raises BadInput where that cannot be kept."""

    who: str
    why: str = ""

    def __post_init__(self) -> None:
        plain("by", self.who.strip(), BY_LENGTH)
        if self.who == GUARDRAIL:
            raise BadInput(f"by {GUARDRAIL!r}: the guardrail signs for itself")
        if why := " ".join(self.why.split()):
            plain("why", why, WHY_LENGTH)

    def with_reason(self) -> By:
        """Themselves. Raises BadInput where they give no reason."""
        if not self.why.strip():
            raise BadInput(WHY)
        return self


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
    how: dict[str, Any] = {"expected": expected, "force": force}
    return set_stage(runtime.db, name, to, percent, by=by.who, why=by.why, now=now, **how)


def would_move(runtime: Runtime, job: str | None, to: Side) -> int:
    """How many open runs of the job and below it (None: of all jobs) are not on side `to`: what a
    drain there moves, and for RQ a rollback."""
    left = Drain(runtime, None if job is None else [job], to, running=True).left()
    return sum(count for name, count in left.items() if name in runtime.catalogue)


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
    act = _begun(work, "drain", by, act)
    drained = work()
    return _moved(work, "drain", by, act, drained, done=not drained.left)


def rollback(work: Drain, by: By, act: int | None = None) -> Moving:
    """Flip the jobs of `work` to legacy and bring back what is open, running or not: all of it, or
    with its limit one batch, as drain() does. Raises StageRefused."""
    by.with_reason()
    flip = list(work.runtime.catalogue if work.jobs is None else work.jobs)
    act = _begun(work, "rollback", by, act)
    drained = drains.rollback(flip, work, by=by.who, why=by.why)
    done = not drained.left and (work.limit is None or drains.is_seen(work.runtime, flip))
    return _moved(work, "rollback", by, act, drained, done=done)


def _begun(work: Drain, kind: str, by: By, act: int | None) -> int:
    if act is not None:
        add_to(work.runtime, kind, by, act, 0)
        return act
    jobs = list(work.jobs or ())
    job = jobs[0] if len(jobs) == 1 else None
    return on_record(work.runtime, kind, by, 0, job=job, detail={"to": work.to})


def _moved(work: Drain, kind: str, by: By, act: int, drained: Drained, *, done: bool) -> Moving:
    add_to(work.runtime, kind, by, act, drained.moved.total() + drained.asked.total())
    return Moving(act, drained, done)


def retry(runtime: Runtime, run_id: str, by: By) -> int:
    """See runs.operate.retry."""
    return operate.retry(runtime.store, run_id, partial(_note, runtime, "retry", by, run_id))


def cancel(runtime: Runtime, run_id: str, by: By) -> int:
    """See runs.operate.cancel."""
    acts: list[int] = []

    def note(connection: Connection, count: int) -> None:
        acts.append(_note(runtime, "cancel", by, run_id, connection, count))

    below = operate.cancel(runtime.store, run_id, note=note)
    if acts and below:
        add_to(runtime, "cancel", by, acts[0], below)
    elif below:  # the run had been cancelled before, and what is below it only now
        on_record(runtime, "cancel", by, below, run_id=run_id)
    return below


def _note(
    runtime: Runtime, act: str, by: By, run_id: str, connection: Connection, count: int
) -> int:
    how: dict[str, Any] = {"who": by.who, "why": by.why, "now": runtime.store.clock()}
    return audit.record(connection, act, run_id=run_id, count=count, **how)


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
    on_record(runtime, "run", by, int(run.created), job=run.job, run_id=run.id)
    return run


def on_record(runtime: Runtime, act: str, by: By, count: int, **what: Any) -> int:
    """Put an act into the audit; its place there."""
    with runtime.db.begin() as connection:
        return audit.record(
            connection, act, who=by.who, why=by.why, count=count, now=runtime.store.clock(), **what
        )


def add_to(runtime: Runtime, act: str, by: By, place: int, count: int) -> None:
    """Add to how many an act in batches was done to. Raises BadInput where it is not theirs."""
    with runtime.db.begin() as connection:
        if not audit.add(connection, place, act, by.who, count):
            raise BadInput(f"act: no {act} of {by.who} has this number")

"""Checks of our own parts: the ledger, its clocks and its relay, and a canary through each side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Any

from sqlalchemy import func, select

from app.switchyard.clock import iso
from app.switchyard.cutover.status import EVER
from app.switchyard.dispatch import dispatch_canary
from app.switchyard.errors import CheckFailed, RunNotMovable
from app.switchyard.job import JobSpec
from app.switchyard.runs import operate
from app.switchyard.runs.create import new_run
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime

JOB = "canary"
CANARY_SECONDS = 15.0
LATE = timedelta(minutes=1)
"""How long after its time a tick, or a look at a run, is taken for missing."""
_LOOK_SECONDS = 0.2


def redis(made: Runtime) -> str:
    """RQ's Redis answers."""
    made.store.backends["rq"].ping()
    return "it answers"


def canary(backend: str) -> Callable[[Runtime], str]:
    """A run of one step comes back from `backend`."""
    return partial(_canary, backend)


def _canary(backend: str, made: Runtime) -> str:
    if JOB not in made.catalogue:
        raise CheckFailed(f"SWITCHYARD_JOBS names modules without the job {JOB!r}")
    begun = time.monotonic()
    run = dispatch_canary(JOB, {"song": token_hex(8)}, backend)
    while time.monotonic() < begun + CANARY_SECONDS:
        with made.db.autocommit() as connection:
            columns = (R.status, R.backend, R.result, R.error)
            row = connection.execute(select(*columns).where(R.id == run.id)).one()
        if row.status not in OPEN:
            return _come_back(backend, row, time.monotonic() - begun)
        time.sleep(_LOOK_SECONDS)
    with suppress(RunNotMovable):  # it may have come this moment
        operate.cancel(made.store, run.id)
    raise CheckFailed(f"run {run.id} was {row.status} after {CANARY_SECONDS:g} s; it is called off")


def _come_back(backend: str, row: Any, seconds: float) -> str:
    if row.status != Status.SUCCEEDED:
        raise CheckFailed(f"it {row.status}: {row.error}")
    if json.loads(row.result)["backend"] != backend:
        raise CheckFailed(f"it came back from {json.loads(row.result)['backend']}")
    return f"there and back in {seconds:.1f} s"


def lost(made: Runtime) -> str:
    """No open run is overdue: the relay looks at each when its time has come."""
    now = made.store.clock()
    overdue = select(func.count(), func.min(R.check_at)).where(
        R.check_at > EVER, R.check_at < now - LATE
    )
    with made.db.autocommit() as connection:
        count, oldest = connection.execute(overdue).one()
    if count:
        raise CheckFailed(
            f"{count} open runs that nobody has looked at, the oldest due {iso(oldest)}"
        )
    return "no open run is overdue"


def clocks(made: Runtime) -> str:
    """The last occurrence of every scheduled job is a run."""
    now = made.store.clock()
    with made.db.autocommit() as connection:
        first = connection.execute(select(func.min(R.id))).scalar()
    since = now if first is None else datetime.fromtimestamp(int(first[:12], 16) / 1000, UTC)
    due: dict[str, tuple[datetime, str]] = {}
    for spec in made.catalogue.values():
        if spec.schedule is None:
            continue
        at = spec.occurrence_at(now - LATE)
        if at > since:
            due[spec.name] = (at, tick_key(spec, at, now))
    if not due:
        return f"nothing was due since the ledger's first run, at {iso(since)}"
    missing = []
    with made.db.autocommit() as connection:
        for job, (at, key) in due.items():
            known = select(R.id).where(R.job == job, R.key == key)
            if connection.execute(known).first() is None:
                missing.append(f"{job} of {iso(at)}")
    if missing:
        raise CheckFailed(f"no run for {', '.join(missing)}")
    return f"the last tick of {len(due)} jobs is there"


def tick_key(spec: JobSpec, at: datetime, now: datetime) -> str:
    """The key of the run that an occurrence becomes, as clock.tick has it."""
    payload = None if spec.tick is None else spec.tick(at)
    return new_run(spec, payload, None if spec.key else f"tick:{iso(at)}", now).key

"""Ten thousand pending and delayed runs to the other side, beside dispatching as many there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import update

from app.switchyard.cutover.drain import Drain
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.runs.models import ENDED, Status, runs
from app.switchyard.runtime import Runtime
from flags import Side
from tests.bench.harness import DATABASES, Bench, Row, rate, row
from tests.proof.recovery import stack
from tests.support.sides import Fixed, decide_by

JOB = "bench-noop"
LATER = timedelta(hours=1)


def drain(bench: Bench) -> Iterator[Row]:
    """To Inngest and back to RQ, on either database. Nobody is at work meanwhile."""
    count = bench.some(10_000)
    for label in DATABASES:
        with bench.database(label) as url, stack(bench.redis_url, "web", database_url=url) as there:
            there.end("web")  # Inngest knows the functions by now, and what is due waits
            anew = {side: _dispatch(there.runtime, count, side) for side in ("Inngest", "RQ")}
            for side, bare in anew.items():
                name = f"drain: {count:,} pending and delayed runs to {side}, {label}"
                own = _drain(there.runtime, count, side)
                yield row(name, own, bare, "dispatch_many() there", "runs a second")


def _dispatch(runtime: Runtime, count: int, side: str) -> float:
    """As many a second; each second one is delayed. They are on RQ alone in the end."""
    _end_all(runtime)
    decide_by(Fixed(side.lower()))
    items = [Item({"n": n}, delay=LATER if n % 2 else None) for n in range(count)]
    return rate(count, lambda: dispatch_many(JOB, items))


def _drain(runtime: Runtime, count: int, side: str) -> float:
    """As many a second, until the last one has moved; what the old side forgets comes after."""
    to = Side.RQ if side == "RQ" else Side.SERVERLESS

    began, last = time.perf_counter(), [0.0]

    def moved(done: int, _of: int) -> None:
        last[0] = time.perf_counter()

    drained = Drain(runtime, JOB, to, running=False, progress=moved)()
    if drained.moved[JOB] != count:
        raise AssertionError(f"{drained.moved[JOB]} of {count} moved")
    return count / (last[0] - began)


def _end_all(runtime: Runtime) -> None:
    """Nothing is open any more."""
    ended = {**ENDED, "status": Status.CANCELLED, "ended_at": runtime.store.clock()}
    with runtime.db.begin() as connection:
        connection.execute(update(runs).where(runs.c.check_at.is_not(None)).values(**ended))

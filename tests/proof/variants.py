"""`python -m tests.proof.variants NAME FOLDER`: a short hard life of a product that is broken on
purpose, in the world of tests.support.world, for the checker to look at."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import UniqueConstraint
from sqlalchemy.dialects import sqlite

from app.switchyard.crash import point
from app.switchyard.cutover import clock
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import LeaseLost
from app.switchyard.job import JobSpec
from app.switchyard.runs import store
from app.switchyard.runs.context import RunContext
from app.switchyard.runs.models import StepStatus, runs
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runs.store import Run
from tests.proof import checker
from tests.support.world import Dead, World, dying_at, shuffled

ROUNDS = 60


@contextmanager
def sound() -> Iterator[None]:
    """As it is."""
    yield


@contextmanager
def no_fence() -> Iterator[None]:
    """Whoever was taken over writes on."""
    write = ClaimedRun._write

    def unfenced(self: ClaimedRun, *given: Any, **values: Any) -> Any:
        with suppress(LeaseLost):
            return write(self, *given, **values)
        return SimpleNamespace(move_to=None, epoch=self.epoch)

    with patch.object(ClaimedRun, "_write", unfenced):
        yield


@contextmanager
def no_unique_key() -> Iterator[None]:
    """The same intent twice is two runs."""
    for one in [one for one in runs.constraints if isinstance(one, UniqueConstraint)]:
        runs.constraints.remove(one)
    plain = sqlite.insert(runs).execution_options(preserve_rowcount=True)
    with patch.dict(store._INSERT, sqlite=plain):
        yield


@contextmanager
def acknowledged_before_commit() -> Iterator[None]:
    """A step is on record as done before its effect is."""

    def early(self: RunContext, step: str, attempts: int, do: Callable[[Any], str]) -> str:
        with self._store.db.session() as first:
            self._claimed.end_step(first, step, StepStatus.DONE, attempts, result="null")
        point("step.uncommitted")
        with self._store.db.session() as tx:
            return do(tx)

    with patch.object(RunContext, "_record", early):
        yield


@contextmanager
def a_key_per_try() -> Iterator[None]:
    """What a body makes its idempotency keys from is another one in each slice."""
    begin = RunContext.__init__

    def other(self: RunContext, claimed: ClaimedRun, *given: Any) -> None:
        begin(self, claimed, *given)
        self.run_id = f"{claimed.run_id}-{claimed.epoch}"

    with patch.object(RunContext, "__init__", other):
        yield


@contextmanager
def unkeyed_clocks() -> Iterator[None]:
    """Each clock's tick is a run of its own."""

    def propose(spec: JobSpec, occurrence: datetime) -> Run:
        return dispatch(spec.name, None if spec.tick is None else spec.tick(occurrence))

    with patch.object(clock, "_propose", propose):
        yield


VARIANTS = (
    *(sound, no_fence, no_unique_key, acknowledged_before_commit, a_key_per_try, unkeyed_clocks),
)


def live(folder: Path) -> None:
    """Dispatch twice, deliver twice, die anywhere, stand still and go on; then let it all end."""
    world, random = World(folder, modules="tests.support.jobs,tests.proof.jobs"), Random(7)
    world.create_tables()

    def stand_still(at: str) -> None:
        if at != "step.uncommitted":  # it has the one write lock that there is
            world.time.pass_(11.0)
            world.sweep()
            world.work(2)

    for n in range(ROUNDS):
        job, name = random.choice(["child", "outside"]), f"c{n}"
        checker.note(folder, job, name, [name], True)
        for process in (0, 1):
            world.install(process)
            dispatch(job, {"name": name}, key=name)
        world.time.pass_(random.random() * 4)
        for ticker in world.tickers:
            ticker.round()
        spec = world.runtime.catalogue["ticked"]
        clock.tick(spec, spec.occurrence_at(world.time.now))  # QStash's and Inngest's, too
        world.sweep()
        for queue, parcel in shuffled(random.randrange(99), world.due())[:3]:
            then = random.choice([None, stand_still])
            with dying_at(random.randint(1, 5), then), suppress(Dead):
                queue.deliver(parcel)
                queue.deliver(parcel)
    world.calm()
    world.time.pass_(11.0)
    world.finish()
    world.close()


def main(name: str, folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context({one.__name__: one for one in VARIANTS}[name]())
        live(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""A rule-based state machine over the whole layer: whatever may happen, in whatever order.

After every example all that was accepted has happened once, wherever it was, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.orm import Session

from app.switchyard.audit import By
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import RunNotMovable, StageRefused
from app.switchyard.runs import claim, operate
from app.switchyard.runs.models import RunRow, Status
from flags import Side
from tests.support.world import Dead, Parcel, Queue, World, dying_at, memory_folder, shuffled

JOBS = (
    *("child", "five-steps", "sleeper", "parent", "grab-bag"),
    *("later", "catcher", "hopeless", "capped", "posted", "mixed"),
)
MOVED = (*JOBS, "keyed")
SIDES = st.sampled_from([Side.RQ, Side.SERVERLESS])
PAUSES = st.sampled_from([0.1, 0.4, 1.0, 4.0, 6.0, 11.0, 35.0, 700.0, 13 * 3600.0, 86_400.0])
DISPATCHES = st.tuples(
    st.sampled_from(JOBS),
    st.booleans(),
    st.sampled_from([None, None, 0.5, 8.0, 4000.0, 90_000.0]),
    st.integers(0, 4),
    st.integers(0, 6),
)
"""Job, keyed or not, delay, failures of a step, and at which point its process dies."""
SCOPES = st.sampled_from([None, None, *MOVED])


@dataclass
class Intent:
    """What was accepted, and what is to come of it."""

    job: str
    name: str
    payload: dict[str, Any]
    key: str | None
    effects: list[str]
    run: str | None = None
    cancelled: bool = False


@dataclass
class Stop:
    """Stands in for the event that ends a drain: waiting lets the world's time pass."""

    world: World
    after: int = 1 << 30
    looks: int = field(default=0)

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > self.after

    def wait(self, seconds: float) -> bool:
        self.world.time.pass_(seconds)
        return self.is_set()


def effects_of(job: str, name: str) -> list[str]:
    return {
        "five-steps": [f"{name}/{n}" for n in range(1, 6)],
        "sleeper": [f"{name}/before", f"{name}/after"],
        "parent": [f"{name}/0", f"{name}/1", f"{name}/2", f"{name}/after"],
        "grab-bag": [f"{name}/first", f"{name}/0", f"{name}/1", f"{name}/last"],
        "catcher": [f"{name}/fail"],
        "posted": [f"{name}/first", f"{name}/last"],
        "mixed": [f"{name}/{n}/{w}" for n in (0, 1) for w in ("first", "last")] + [f"{name}/after"],
        "hopeless": [],
        "capped": [],
    }.get(job, [name])


def waits(machine: Machine) -> bool:
    """Whether a queue has something to deliver."""
    return bool(machine.world.due())


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.folder = Path(tempfile.mkdtemp(prefix="swy-world-", dir=memory_folder()))
        self.world = World(self.folder)
        self.world.create_tables()
        self.intents: list[Intent] = []
        self.numbers = 0
        self.began = self.world.time.now
        self.patience, claim.SLOT_WAIT_SECONDS = claim.SLOT_WAIT_SECONDS, 0.0
        for ticker in self.world.tickers:
            ticker.round()

    def intent(self, job: str, *, keyed: bool, failures: int = 0) -> Intent:
        self.numbers += 1
        name = f"i{self.numbers}"
        payload: dict[str, Any] = {"name": name, "waitSeconds": 0 if job == "capped" else 3}
        if job in ("five-steps", "posted"):
            payload |= {"failAt": 1 + self.numbers % 5, "failures": failures}
        return Intent(job, name, payload, name if keyed else None, effects_of(job, name))

    def note(self, intent: Intent) -> None:
        """It was accepted if it is on record, whether or not the caller ever heard so."""
        for row in self.world.rows():
            if row.job == intent.job and f'"{intent.name}"' in row.payload:
                intent.run = row.id
                self.intents.append(intent)
                return

    @initialize(serverless=st.sets(st.sampled_from(MOVED)), first=st.lists(DISPATCHES, min_size=3))
    def begin(self, serverless: set[str], first: list[Any]) -> None:
        for job in sorted(serverless):
            self.flip(job, "live")
        self.dispatch(first)

    @rule(some=st.lists(DISPATCHES, min_size=1, max_size=4), process=st.integers(0, 1))
    def dispatches(self, some: list[Any], process: int) -> None:
        self.world.install(process)
        self.dispatch(some)

    def dispatch(self, some: list[Any]) -> None:
        for job, keyed, delay, failures, dies in some:
            intent = self.intent(job, keyed=keyed, failures=failures)
            with dying_at(dies), contextlib.suppress(Dead):
                dispatch(job, intent.payload, key=intent.key, delay=delay)
            self.note(intent)

    @rule(job=st.sampled_from(JOBS), commits=st.booleans(), process=st.integers(0, 1))
    def dispatches_in_a_transaction(self, job: str, commits: bool, process: int) -> None:
        intent = self.intent(job, keyed=True)
        self.world.install(process)
        with Session(self.world.runtime.db.engine) as session:
            dispatch(job, intent.payload, key=intent.key, session=session)
            if commits:
                session.commit()
            else:
                session.rollback()
        before = len(self.intents)
        self.note(intent)
        assert len(self.intents) == before + commits

    @precondition(lambda self: any(i.key for i in self.intents))
    @rule(data=st.data(), process=st.integers(0, 1))
    def dispatches_again(self, data: st.DataObject, process: int) -> None:
        intent = data.draw(st.sampled_from([i for i in self.intents if i.key]))
        self.world.install(process)
        run = dispatch(intent.job, intent.payload, key=intent.key)
        assert (run.id, run.created) == (intent.run, False)

    @rule(
        job=st.sampled_from(MOVED),
        stage=st.sampled_from(["legacy", "shadow", "ramp", "live"]),
        percent=st.sampled_from([0.1, 10.0, 50.0, 90.0]),
    )
    def flips(self, job: str, stage: str, percent: float) -> None:
        self.flip(job, stage, percent)

    def flip(self, job: str, stage: str, percent: float = 50.0) -> None:
        with contextlib.suppress(StageRefused):
            stages.set_stage(
                self.world.runtime.db,
                job,
                stage,
                percent if stage == "ramp" else None,
                By("machine", "an example"),
                self.world.time(),
            )

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.world.time.pass_(seconds)

    @rule()
    def relay_sweeps(self) -> None:
        self.world.sweep()

    @rule(clock=st.integers(0, 1))
    def clock_ticks(self, clock: int) -> None:
        self.world.install(clock)
        self.world.tickers[clock].round()

    def some(self, seed: int, most: int = 1) -> list[tuple[Queue, Parcel]]:
        return shuffled(seed, self.world.due())[:most]

    @precondition(waits)
    @rule(seed=st.integers(0, 99), most=st.sampled_from([1, 2, 5, 20]))
    def delivers(self, seed: int, most: int) -> None:
        """Out of order, and no further than they come."""
        for queue, parcel in self.some(seed, most):
            queue.deliver(parcel)

    @precondition(waits)
    @rule(seed=st.integers(0, 99))
    def delivers_twice(self, seed: int) -> None:
        for queue, parcel in self.some(seed):
            queue.deliver(parcel)
            queue.deliver(parcel)

    @precondition(waits)
    @rule(seed=st.integers(0, 99), everything=st.booleans())
    def loses(self, seed: int, everything: bool) -> None:
        """A message, or all that a queue has."""
        for queue, parcel in self.some(seed):
            queue.parcels = [] if everything else [p for p in queue.parcels if p is not parcel]

    @precondition(waits)
    @rule(seed=st.integers(0, 99), point=st.integers(1, 5))
    def dies(self, seed: int, point: int) -> None:
        """A process is killed at one of the points it comes to."""
        for queue, parcel in self.some(seed):
            with dying_at(point), contextlib.suppress(Dead):
                queue.deliver(parcel)

    @precondition(waits)
    @rule(seed=st.integers(0, 99), point=st.integers(1, 6), to=SIDES, what=st.integers(0, 4))
    def meanwhile(self, seed: int, point: int, to: Side, what: int) -> None:
        """A process stands still in the middle of a slice, and then goes on."""

        def happens(name: str) -> None:
            if name == "step.uncommitted":
                return  # it has the one write lock that there is
            if what in (0, 1):
                self.drain(to, None, running=True)
            if what in (1, 2):
                self.world.time.pass_(11.0)
                self.world.sweep()
                self.world.work(30)
            if what == 3:
                self.world.sweep()
                self.drain(to, None, running=False)
            if what == 4:
                self.drain(to, None, running=True)
                other = Side.RQ if to == Side.SERVERLESS else Side.SERVERLESS
                self.drain(other, None, running=True)

        for queue, parcel in self.some(seed):
            with dying_at(point, happens):
                queue.deliver(parcel)

    def drain(
        self, to: Side, job: str | None, *, running: bool, stop: Stop | None = None
    ) -> drains.Drained:
        event: Any = Stop(self.world) if stop is None else stop
        return drains.Drain(self.world.runtime, job, to, running, 0.0, event, chunk=2)()

    @rule(to=SIDES, job=SCOPES, running=st.booleans())
    def drains(self, to: Side, job: str | None, running: bool) -> None:
        drained = self.drain(to, job, running=running)
        held = [row for row in self.world.open() if row.status == Status.RUNNING]
        assert drained.left.total() <= len(held)

    @rule(to=SIDES, looks=st.integers(1, 6), dies=st.integers(0, 3))
    def drain_is_cut_short(self, to: Side, looks: int, dies: int) -> None:
        with dying_at(dies), contextlib.suppress(Dead):
            self.drain(to, None, running=True, stop=Stop(self.world, looks))

    @rule(job=SCOPES)
    def rolls_back(self, job: str | None) -> None:
        world = self.world
        flip = MOVED if job is None else [job]
        stop: Any = Stop(world)
        work = drains.Drain(world.runtime, job, Side.RQ, True, 0.0, stop, chunk=2)
        drained = drains.rollback(flip, work, By("machine", "an example"))
        held = [row for row in world.open() if row.status == Status.RUNNING]
        assert drained.left.total() <= len(held)
        world.install()
        assert all(world.flags[0].decide(name, "x").backend == "rq" for name in flip)

    @rule(
        name=st.sampled_from(["rq", "inngest", "qstash"]),
        fault=st.sampled_from(["away", "swallows", "doubles", "unsure"]),
    )
    def goes_wrong(self, name: str, fault: str) -> None:
        queue = self.world.queues[name]
        setattr(queue, fault, not getattr(queue, fault))

    @rule()
    def is_mended(self) -> None:
        self.world.calm()

    @precondition(lambda self: self.intents)
    @rule(data=st.data())
    def cancels(self, data: st.DataObject) -> None:
        intent = data.draw(st.sampled_from(self.intents))
        try:
            operate.cancel(self.world.runtime.store, str(intent.run))
        except RunNotMovable:
            return
        intent.cancelled = True

    @precondition(lambda self: self.intents)
    @rule(data=st.data())
    def retries(self, data: st.DataObject) -> None:
        intent = data.draw(st.sampled_from(self.intents))
        try:
            operate.retry(self.world.runtime.store, str(intent.run))
        except RunNotMovable:
            return
        intent.cancelled = False

    @invariant()
    def nobody_waits_to_move(self) -> None:
        """Only what is running may be about to leave."""
        waits = (RunRow.move_to.is_not(None), RunRow.status != Status.RUNNING)
        assert self.world.rows(RunRow.check_at.is_not(None), *waits) == []

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            claim.SLOT_WAIT_SECONDS = self.patience
            self.world.close()
            shutil.rmtree(self.folder)
            logging.disable(logging.NOTSET)

    def check(self) -> None:
        """It all drains, and then each accepted intent has had its effects once."""
        world = self.world
        world.install()
        world.calm()
        for ticker in world.tickers:
            ticker.round()
        ticked = world.time.now
        world.time.pass_(11.0)
        world.sweep()  # what the dead left is taken over
        to = Side.SERVERLESS if self.numbers % 2 else Side.RQ
        assert self.drain(to, None, running=True).left.total() == 0
        assert all((row.backend == "rq") == (to == Side.RQ) for row in world.open())
        world.finish()
        rows = {row.id: row for row in world.rows()}
        assert all((row.holder, row.slot, row.move_to) == (None,) * 3 for row in rows.values())
        spec = world.runtime.catalogue["keyed"]
        ticks = [f"{at:%Y-%m-%dT%H:%M}" for at in spec.occurrences(self.began, ticked)]
        assert sorted(row.key for row in rows.values() if row.job == "keyed") == ticks
        expected, optional = Counter(ticks), Counter[str]()
        for intent in self.intents:
            row = rows[str(intent.run)]
            if intent.cancelled:
                assert row.status == Status.CANCELLED
                optional.update(intent.effects)
            else:
                failed = intent.job == "hopeless"
                assert row.status == ("failed" if failed else "succeeded"), (intent, row.error)
                expected.update(intent.effects)
        done = Counter(world.marks())
        assert expected - done == Counter(), "lost"
        assert done - expected - optional == Counter(), "doubled"

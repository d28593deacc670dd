"""The whole layer in one process on a clock of its own: real ledger, engine, relay, clocks, flags;
the three queues are lists that lose, double, delay and reorder what they are sent, on demand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import ColumnElement, select

import flags
from app.platform.config import load
from app.platform.wiring import make_runtime
from app.switchyard import crash
from app.switchyard.cutover import stages
from app.switchyard.cutover.clock import Ticker
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs import relay
from app.switchyard.runs.backend import Delivery, End, Message, Outcome
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runtime import install
from tests.support.marks import marks
from tests.support.sides import decide_by
from tests.support.tables import create_all

START = datetime(2028, 2, 14, 8, tzinfo=UTC)
_holders = itertools.count(1)


class Dead(BaseException):
    """The process ends here, as by kill -9."""


class Time:
    """A clock that goes on when asked to; `offset` is how wrong the machine's is."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.ran = 1000.0
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return self.now + self.offset

    def monotonic(self) -> float:
        return self.ran

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.ran += seconds


class NoSignOfLife:
    """Leases that nobody renews: time stands still while a slice is at work."""

    def keep(self, claimed: ClaimedRun) -> None: ...

    def drop(self, claimed: ClaimedRun) -> None: ...


@dataclass(eq=False)
class Parcel:
    """Something a queue will deliver."""

    message: Message
    at: datetime
    ref: str
    holder: str
    ended: bool = False
    broken: bool = False
    """Accepted, and never to be delivered."""

    @property
    def sent_at(self) -> datetime:
        """When it was sent, or when it was due if that was later."""
        return max(self.message.due_at, self.message.sent_at or self.message.due_at)


class Queue:
    """A queue in a list. Subclasses are the three kinds."""

    name = ""
    waits_until_due = False
    gives_refs = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.parcels: list[Parcel] = []
        self.seen: dict[tuple[str, int, int, datetime | None], str] = {}
        self.away = self.swallows = self.doubles = self.unsure = False
        self._refs = itertools.count(1)

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        if self.away:
            raise BackendUnavailable(f"{self.name} is away")
        refs = {}
        for message in messages:
            ref = refs[message.run_id] = f"{self.name}-{next(self._refs)}"
            self.accept(message, ref)
        if self.unsure:
            raise BackendUnavailable(f"{self.name} took it and did not say so")
        return refs if self.gives_refs else {}

    def accept(self, message: Message, ref: str) -> None:
        for _ in range(2 if self.doubles else 1):
            holder = f"{self.name}-{next(_holders)}"
            at = message.due_at if self.waits_until_due else self.world.time.now
            broken = self.swallows or not self.serves(message)
            self.parcels.append(Parcel(message, at, ref, holder, broken=broken))

    def serves(self, message: Message) -> bool:
        """Whether anybody is there for such a message."""
        return True

    def queued(self, messages: Sequence[Message]) -> set[str] | None:
        if self.away:
            raise BackendUnavailable(f"{self.name} is away")
        if self.waits_until_due:
            return None
        return {m.run_id for m in messages if any(self.is_of(p, m) for p in self.parcels)}

    def is_of(self, parcel: Parcel, message: Message) -> bool:
        its = parcel.message
        return (its.run_id, its.epoch) == (message.run_id, message.epoch) and not parcel.broken

    def cancel(self, messages: Sequence[Message]) -> None:
        if self.away:
            raise BackendUnavailable(f"{self.name} is away")
        self.parcels = [p for p in self.parcels if not any(self.is_of(p, m) for m in messages)]

    def ping(self) -> None:
        if self.away:
            raise BackendUnavailable(f"{self.name} is away")

    def due(self) -> list[Parcel]:
        return [p for p in self.parcels if p.at <= self.world.time.now and not p.broken]

    def deliver(self, parcel: Parcel) -> Outcome:
        """Hand it to a process; what is over is out of the list."""
        raise NotImplementedError

    def perform(self, parcel: Parcel, delivery: Delivery) -> Outcome:
        message = parcel.message
        return self.world.runtime.engine.perform(message.run_id, message.epoch, delivery)


class Mortal(Delivery):
    """To a process that can die: its end is no error that the run might survive."""

    def is_signal(self, failure: BaseException) -> bool:
        return isinstance(failure, Dead)


class RQ(Queue):
    """Popped before it is performed: what dies with its worker is gone."""

    name = "rq"

    def deliver(self, parcel: Parcel) -> Outcome:
        if parcel in self.parcels:
            self.parcels.remove(parcel)
        return self.perform(parcel, Mortal(parcel.holder))


class Step(BaseException):
    """The end of a call: the step is reported, and Inngest calls again."""


class InngestDelivery(Mortal):
    calls_again = True
    ended = False

    def __init__(self, holder: str, steps: Iterator[int], sent_at: datetime | None = None) -> None:
        super().__init__(holder, sent_at=sent_at)
        self._steps = steps

    def is_signal(self, failure: BaseException) -> bool:
        return isinstance(failure, Step) or super().is_signal(failure)

    def ends(self) -> bool:
        """After every second step."""
        self.ended = next(self._steps) % 2 == 0
        return self.ended

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        result = attempt()
        if self.ended:
            raise Step(result)
        return result


class Inngest(Queue):
    """Waits by itself, comes back for each step, and starts nothing for an id it has seen."""

    name = "inngest"
    waits_until_due = gives_refs = True

    def serves(self, message: Message) -> bool:
        return message.spec.serverless == self.name

    def accept(self, message: Message, ref: str) -> None:
        mark = (message.run_id, message.epoch, message.sends, None)
        if mark not in self.seen:
            self.seen[mark] = ref
            super().accept(message, ref)

    def is_of(self, parcel: Parcel, message: Message) -> bool:
        return parcel.ref == message.ref and not parcel.broken

    def deliver(self, parcel: Parcel) -> Outcome:
        try:
            outcome = self.perform(
                parcel, InngestDelivery(parcel.holder, self.world.steps, parcel.sent_at)
            )
        except Step:
            parcel.at = self.world.time.now
            return Outcome(End.YIELDED)
        except Dead:
            parcel.at = self.world.time.now + timedelta(seconds=30)
            raise
        if outcome.end in (End.RETRY, End.BUSY, End.WAIT, End.NOT_DUE):
            assert outcome.due_at is not None
            parcel.at = max(outcome.due_at, self.world.time.now + timedelta(milliseconds=1))
        elif parcel in self.parcels:
            self.parcels.remove(parcel)
        return outcome


class QStash(Queue):
    """Waits by itself and delivers once; what goes on later is resent."""

    name = "qstash"
    waits_until_due = gives_refs = True

    def accept(self, message: Message, ref: str) -> None:
        mark = (message.run_id, message.epoch, message.sends, message.due_at)
        if mark not in self.seen:
            self.seen[mark] = ref
            super().accept(message, ref)

    def is_of(self, parcel: Parcel, message: Message) -> bool:
        return parcel.ref == message.ref and super().is_of(parcel, message)

    def deliver(self, parcel: Parcel) -> Outcome:
        try:
            outcome = self.perform(parcel, Mortal(parcel.holder, sent_at=parcel.sent_at))
        except Dead:
            parcel.at = self.world.time.now + timedelta(seconds=30)
            raise
        if parcel in self.parcels:
            self.parcels.remove(parcel)
        if outcome.end not in (End.DONE, End.NOT_MINE, End.FAILED):
            self.world.runtime.store.send([parcel.message.run_id])
        return outcome


class World:
    """One ledger, three queues, two processes that read the flag, and clocks."""

    def __init__(self, folder: Path, *, modules: str = "tests.support.jobs", **more: str) -> None:
        self.time = Time(START)
        self.rq, self.inngest, self.qstash = RQ(self), Inngest(self), QStash(self)
        self.queues: dict[str, Queue] = {q.name: q for q in (self.rq, self.inngest, self.qstash)}
        environ = {
            "DATABASE_URL": f"sqlite:///{folder / 'world.db'}",
            "SWITCHYARD_JOBS": modules,
            "USE_INNGEST": "true",
            "LEASE_SECONDS": "10",
            "CHECK_SECONDS": "5",
            **more,
        }
        runtime = make_runtime(load(environ), clock=self.time, backends=list(self.queues.values()))
        engine = replace(runtime.engine, leases=NoSignOfLife())  # type: ignore[arg-type]
        self.runtime = replace(runtime, engine=engine)
        self.flags = [self._flags() for _ in range(2)]
        self.tickers = [Ticker(self.runtime, self.time.monotonic) for _ in range(2)]
        self._numbers = itertools.count(1)
        self.steps = itertools.count()
        # So that a failure can be replayed: nothing in here is left to chance.
        self._named = patch(
            "app.switchyard.runs.store.new_run_id", lambda: f"r{next(self._numbers):05d}"
        )
        self._named.start()
        self.install()

    def _flags(self) -> flags.Flags:
        return flags.Flags(
            lambda: stages.current_stages(self.runtime.db),
            lambda job: self.runtime.catalogue[job].serverless,
            environ={"USE_INNGEST": "true"},
            monotonic=self.time.monotonic,
        )

    def install(self, process: int = 0) -> None:
        """Be process number `process`: one of those whose view of the flag may be old."""
        install(self.runtime)
        decide_by(self.flags[process])

    def create_tables(self) -> None:
        create_all(self.runtime.db.engine)

    def close(self) -> None:
        crash.hook = None
        self._named.stop()
        self.runtime.db.dispose()

    def rows(self, *which: ColumnElement[bool]) -> list[Any]:
        chosen = select(RunRow.__table__).where(*which).order_by(RunRow.id)
        return self.runtime.db.rows(chosen)

    def row(self, run_id: str) -> Any:
        (row,) = self.rows(RunRow.id == run_id)
        return row

    def open(self) -> list[Any]:
        return self.rows(RunRow.check_at.is_not(None))

    def marks(self) -> dict[str, int]:
        return marks(self.runtime.db)

    def due(self) -> list[tuple[Queue, Parcel]]:
        return [(queue, p) for queue in self.queues.values() for p in queue.due()]

    def sweep(self) -> relay.Swept:
        return relay.sweep(self.runtime.store)

    def work(self, most: int = 500) -> None:
        """Deliver what is due, and what comes of that, in order."""
        for _ in range(most):
            due = self.due()
            if not due:
                return
            queue, parcel = due[0]
            queue.deliver(parcel)

    def calm(self) -> None:
        """Nothing goes wrong from now on."""
        crash.hook = None
        for queue in self.queues.values():
            queue.away = queue.swallows = queue.doubles = queue.unsure = False

    def finish(self, rounds: int = 300) -> None:
        """Let time pass, the relay sweep and the queues deliver until no run is open."""
        for _ in range(rounds):
            self.work()
            left = self.open()
            if not left:
                return
            upcoming = [row.check_at for row in left] + [
                p.at for q in self.queues.values() for p in q.parcels if not p.broken
            ]
            wait = (min(upcoming) - self.time.now).total_seconds()
            self.time.pass_(max(0.05, wait))
            self.sweep()
        open_ = [r._asdict() for r in sorted(self.open(), key=lambda r: r.check_at)[:3]]
        raise AssertionError(f"still open: {open_}, parcels {self.due()[:3]}")


@contextmanager
def dying_at(number: int, then: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """The process dies at the `number`th point it comes to (or does `then`); the points met."""
    met: list[str] = []

    def at(name: str) -> None:
        met.append(name)
        if len(met) == number:
            crash.hook = None
            if then is None:
                raise Dead(name)
            then(name)

    crash.hook = at
    try:
        yield met
    finally:
        crash.hook = None


def shuffled(seed: int, parcels: list[tuple[Queue, Parcel]]) -> list[tuple[Queue, Parcel]]:
    random.Random(seed).shuffle(parcels)
    return parcels


def memory_folder() -> str | None:
    """Where files cost nothing, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None

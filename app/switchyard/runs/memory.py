"""Without a queue: backends in memory, and a run performed here and now with all its children."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from sqlalchemy import bindparam, select

from app.switchyard.context import AppContext
from app.switchyard.job import SERVERLESS
from app.switchyard.runs.backend import Backends, Delivery, Message, Outcome
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.models import AnyRow, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.relay import LAPSED, take_over
from flags import LEGACY_BACKEND

POLL_SECONDS = 0.25
"""How often to look at runs that are not due yet or are held by another process."""

_TREE = select(R.id).where(R.id == bindparam("root")).cte("tree", recursive=True)
_TREE = _TREE.union_all(select(R.id).where(R.parent_id == _TREE.c.id))
_OPEN = (
    select(*LAPSED, R.holder, R.status, R.check_at)
    .join(_TREE, R.id == _TREE.c.id)
    .where(R.check_at.is_not(None))
    .order_by(R.due_at, R.id)
)


class MemoryBackend:
    """A queue in a list, which several backends may share. It may have the name of the backend that
    it stands in for. Its messages are lost with the process; the relay then sends them again."""

    name = "memory"
    waits_until_due = False

    def __init__(self, name: str | None = None, queue: deque[Message] | None = None) -> None:
        self.name = name or self.name
        self.queue: deque[Message] = deque() if queue is None else queue

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue the messages."""
        self.queue.extend(messages)
        return {}

    def queued(self, messages: Sequence[Message]) -> set[str]:
        """The runs still in the list."""
        return {m.run_id for m in messages} & {m.run_id for m in self.queue}

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take the messages out of the list."""
        sent = {(message.run_id, message.epoch) for message in messages}
        for message in [m for m in self.queue if (m.run_id, m.epoch) in sent]:
            with suppress(ValueError):  # another thread took it
                self.queue.remove(message)

    def ping(self) -> None:
        """Always there."""

    def work(self, engine: Engine, limit: int = 10_000) -> list[Outcome]:
        """Perform one slice of each queued run, and of those that they queue: at most `limit`.

        Several threads may work at once.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < limit:
            try:
                message = self.queue.popleft()
            except IndexError:
                break
            delivery = Delivery(f"memory-{os.urandom(8).hex()}")
            outcomes.append(engine.perform(message.run_id, message.epoch, delivery))
        return outcomes


Slice = tuple[str, Outcome | None]
"""The run of a slice that was performed here, and its outcome: none where there was nothing to do
just now."""


class Inline:
    """A process that performs what its own store sends, by way of a list.

    If the process dies, the relay finds the runs left in the list and sends them to their backends.
    """

    def __init__(
        self, engine: Engine, stop: threading.Event, context: AppContext = nullcontext
    ) -> None:
        self._queue: deque[Message] = deque()
        names = (LEGACY_BACKEND, *SERVERLESS)
        backends = Backends(MemoryBackend(name, self._queue) for name in names)
        self.store = replace(engine.store, backends=backends)
        self.engine = replace(engine, store=self.store)
        self._stop = stop
        self._context = context

    def slices(self, run_id: str) -> Iterator[Slice]:
        """Perform the run and all its children until everything has ended, or `stop` is set.

        Other processes may claim slices too: this one waits for them, and takes over the runs of a
        dead one when their leases have run out.
        """
        while not self._stop.is_set():
            while self._queue and not self._stop.is_set():
                message = self._queue.popleft()
                yield self._perform(message.run_id, message.epoch)
            rows = self._open(run_id)
            if not rows:
                return
            now = self.store.clock()
            free = [row for row in rows if row.holder is None and row.due_at <= now]
            for row in free:
                if self._stop.is_set():
                    return
                yield self._perform(row.id, row.epoch)
            if not free and not self._queue:
                yield run_id, None
                self._stop.wait(self._pause(rows))

    def _perform(self, run_id: str, epoch: int) -> Slice:
        delivery = Delivery(f"inline-{os.urandom(8).hex()}", self._stop.is_set)
        with self._context():
            return run_id, self.engine.perform(run_id, epoch, delivery)

    def _open(self, run_id: str) -> list[AnyRow]:
        """The open runs of the tree. Takes over those whose leases have run out."""
        now = self.store.clock()
        rows = self.store.db.rows(_OPEN, {"root": run_id})
        for row in rows:
            if row.status == Status.RUNNING and row.check_at <= now:
                take_over(self.store, row, now)
        return rows

    def _pause(self, rows: Sequence[AnyRow]) -> float:
        """Seconds until the next look."""
        now = self.store.clock()
        waits: list[float] = [
            (row.due_at - now).total_seconds() for row in rows if row.holder is None
        ]
        return max(0.01, min([POLL_SECONDS, *waits]))

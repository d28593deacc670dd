"""No queue at all: a run, and all below it, performed here and now in the calling process."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import bindparam, select

from app.switchyard.job import SERVERLESS
from app.switchyard.loading import AppContext
from app.switchyard.runs.backend import Backends, Delivery, Message, Outcome
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.ledger import AnyRow
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.statements import TAKE_OVER
from flags import LEGACY_BACKEND

POLL_SECONDS = 0.25
"""How often to look at what is not due yet, or held by another process."""

_TREE = select(R.id).where(R.id == bindparam("root")).cte("tree", recursive=True)
_TREE = _TREE.union_all(select(R.id).where(R.parent_id == _TREE.c.id))
_OPEN = (
    select(R.id, R.epoch, R.holder, R.status, R.due_at, R.check_at)
    .join(_TREE, R.id == _TREE.c.id)
    .where(R.check_at.is_not(None))
    .order_by(R.due_at, R.id)
)


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice that was performed here; without an outcome: there was nothing to do just now."""

    run_id: str
    outcome: Outcome | None


class Inline:
    """One process's hands: what its store sends goes into a list, and the list is worked off.

    What the list still holds when the process dies, the relay finds and sends to the real backend.
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
        """Perform the run and all below it until everything is done with, or `stop` is set.

        Whoever claims first does a slice, here or elsewhere: what another process holds is waited
        for, and what a dead one left is taken over when its lease has run out.
        """
        while not self._stop.is_set():
            while self._queue and not self._stop.is_set():
                message = self._queue.popleft()
                yield self._perform(message.run_id, message.epoch)
            rows = self._open(run_id)
            if not rows:
                return
            free = _free(rows, self.store.clock())
            for row in free:
                if self._stop.is_set():
                    return
                yield self._perform(row.id, row.epoch)
            if not free and not self._queue:
                yield Slice(run_id, None)
                self._stop.wait(self._pause(rows))

    def _perform(self, run_id: str, epoch: int) -> Slice:
        delivery = Delivery(f"inline-{os.urandom(8).hex()}", self._stop.is_set)
        with self._context():
            return Slice(run_id, self.engine.perform(run_id, epoch, delivery))

    def _open(self, run_id: str) -> list[AnyRow]:
        """What is open of the run and all below it; a lease that ran out is ended on the way."""
        now = self.store.clock()
        with self.store.db.autocommit() as connection:
            rows = list(connection.execute(_OPEN, {"root": run_id}))
            for row in rows:
                if row.status == Status.RUNNING and row.check_at <= now:
                    bound = {
                        "run_id": row.id,
                        "seen_epoch": row.epoch,
                        "now": now,
                        "new_due_at": now,
                        "new_check_at": now + self.store.check,
                    }
                    connection.execute(TAKE_OVER, bound)
        return rows

    def _pause(self, rows: Sequence[AnyRow]) -> float:
        """Seconds until the next look."""
        now = self.store.clock()
        waits: list[float] = [
            (row.due_at - now).total_seconds() for row in rows if row.holder is None
        ]
        return max(0.01, min([POLL_SECONDS, *waits]))


def _free(rows: Sequence[AnyRow], now: datetime) -> list[AnyRow]:
    return [row for row in rows if row.holder is None and row.due_at <= now]

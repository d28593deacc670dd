"""For an app's own tests: dispatched runs are performed at once, without worker, relay or Redis.

The distribution registers this module with pytest, which provides the fixture `switchyard_inline`.
It needs a fixture for the app, with pytest-flask's name:

    @pytest.fixture
    def app():
        return create_app({"SQLALCHEMY_DATABASE_URI": "sqlite://", ...})

    def test_an_order_is_paid(app, client, switchyard_inline):
        client.post("/orders/1/pay")               # enqueues, or dispatches
        assert Order.paid
        [run] = switchyard_inline.runs("pay")
        assert run["status"] == "succeeded"

Without pytest use `with inline(app) as runs: ...`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.job import SERVERLESS
from app.switchyard.operations.story import story
from app.switchyard.runs.backend import Backends, Delivery, Message
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status, StepStatus, id_at
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runtime import EXTENSION, Runtime
from app.switchyard.schema import LAYER
from flags import LEGACY_BACKEND
from queues.inventory import call_sites

_MOST = 1000


class _AtOnce(MemoryBackend):
    """Stands in for the backend with its name. Sending to it performs the work."""

    def __init__(self, name: str, runs: InlineRuns) -> None:
        super().__init__(name, runs.queue)
        self._runs = runs

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue the messages, and perform what is queued."""
        super().send(messages)
        self._runs.work()
        return {}


class InlineRuns:
    """The runs that a test dispatched.

    A run is performed before its dispatch() returns, or before the commit of the session it joined
    returns: in a new application context, with its children, retries and sleeps, without waiting.
    What a body raises becomes its run's `error`, as everywhere. Runs that are due later stay
    pending until `make_due()`.
    """

    def __init__(self, app: Flask, runtime: Runtime) -> None:
        self.queue: deque[Message] = deque()
        names = (LEGACY_BACKEND, *SERVERLESS)
        self._app = app
        self._store = replace(
            runtime.store, backends=Backends(_AtOnce(name, self) for name in names)
        )
        self._engine = replace(runtime.engine, store=self._store)
        self._first = id_at(self._store.clock())
        self._working = False

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        """The runs since the fixture began, newest first, in the form of `runs show --json`."""
        chosen = select(R.id).where(R.id >= self._first).order_by(R.id.desc()).limit(_MOST)
        of_job = chosen if job is None else chosen.where(R.job == job)
        return [story(self._store.db, row.id) for row in self._store.db.rows(of_job)]

    def make_due(self) -> None:
        """Perform runs that are due later as if their time had come."""
        self._hasten(R.status == Status.PENDING)

    def work(self) -> None:
        """Perform what is queued, unless that is under way: runs that a body dispatches follow."""
        if self._working:
            return
        self._working = True
        # Joining parents are left out: their last child wakes them.
        waits = or_(S.status == StepStatus.RETRYING, S.until.is_not(None))
        paused = select(S.run_id).where(S.run_id == R.id, waits).exists()
        try:
            while True:
                while self.queue:
                    message = self.queue.popleft()
                    delivery = Delivery(f"inline-{os.urandom(8).hex()}")
                    with self._app.app_context():
                        self._engine.perform(message.run_id, message.epoch, delivery)
                if not self._hasten((R.status == Status.WAITING) & paused):
                    return
        finally:
            self._working = False

    def _hasten(self, which: Any) -> bool:
        """Make runs that are due later due now. Whether there were any."""
        now = self._store.clock()
        chosen = select(R.id).where(R.id >= self._first, R.due_at > now, which)
        with self._store.db.begin() as connection:
            ids = connection.scalars(chosen).all()
            sleeps = S.run_id.in_(ids) & S.until.is_not(None)
            connection.execute(update(S).where(sleeps).values(until=now))
            connection.execute(update(R).where(R.id.in_(ids)).values(due_at=now, check_at=now))
        self._store.send(ids)
        return bool(ids)

    @contextmanager
    def at_work(self, runtime: Runtime) -> Iterator[None]:
        """Stand in for the app's queues inside the block, and forget its runs at the end."""
        LAYER.metadata.create_all(runtime.db.engine)
        before = runtime.store, runtime.engine
        runtime.store, runtime.engine = self._store, self._engine
        try:
            yield
        finally:
            runtime.store, runtime.engine = before
            # A test may drop the tables.
            with suppress(SQLAlchemyError), runtime.db.begin() as connection:
                connection.execute(delete(R).where(R.id >= self._first))


@contextmanager
def inline(app: Flask) -> Iterator[InlineRuns]:
    """Inside the block, perform at once what this process dispatches with `app`: see InlineRuns.

    Creates the layer's tables if they are missing. Raises KeyError where the app has no Switchyard.
    """
    runtime: Runtime = app.extensions[EXTENSION]
    runs = InlineRuns(app, runtime)
    with call_sites.unwritten(), runs.at_work(runtime):
        yield runs


@pytest.fixture
def switchyard_inline(app: Flask) -> Iterator[InlineRuns]:
    """Performs at once what the test dispatches or enqueues: see InlineRuns."""
    with inline(app) as runs:
        yield runs

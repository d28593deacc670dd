"""SQLite's write lock, held for long by somebody else: a live holder is not taken over for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from app.switchyard import crash
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepStatus
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runtime import Runtime
from tests.support.sides import Fixed, decide_by, ledger
from tests.support.waiting import PATIENCE_SECONDS
from tests.support.world import Time

WAIT = timedelta(seconds=9)


@pytest.fixture
def runtime(tmp_path: Path, at: Time) -> Iterator[Runtime]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with ledger(url, MemoryBackend(), clock=at, LEASE_SECONDS="10") as runtime:
        decide_by(Fixed("memory"))
        yield runtime


@contextmanager
def locked(runtime: Runtime, at: Time, what: str) -> Iterator[None]:
    """In this block the lock is held, until somebody's `what` has waited for it for WAIT."""
    holds, waits = threading.Event(), threading.Event()

    def seen(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        if holds.is_set() and statement.startswith(what):
            waits.set()

    event.listen(runtime.db.engine, "before_cursor_execute", seen)

    def hold() -> None:
        with runtime.db.begin():
            holds.set()
            waits.wait(PATIENCE_SECONDS)
            at.now += WAIT
            time.sleep(0.05)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE_SECONDS)
    yield
    thread.join()
    event.remove(runtime.db.engine, "before_cursor_execute", seen)


def lease_left(runtime: Runtime, at: Time) -> timedelta:
    until: datetime = runtime.db.value(select(R.check_at))
    return until - at.now


def write(runtime: Runtime, claimed: ClaimedRun, what: str) -> None:
    if what == "renewal":
        runtime.engine.leases.renew([claimed])
    elif what == "begin":
        claimed.begin_step("step", 1)
    else:
        with runtime.db.session() as tx:
            claimed.end_step(tx, "step", StepStatus.DONE, 1, result="null")


@pytest.mark.parametrize("what", ["claim", "renewal", "begin", "done"])
def test_a_lease_is_whole_after_a_wait(
    runtime: Runtime, at: Time, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dispatch("noop", {"name": "n"})
    left: list[timedelta] = []

    def hook(point: str) -> None:
        if point != "run.claimed":
            return
        if what != "claim":
            (claimed,) = runtime.engine.leases._kept
            with locked(runtime, at, "BEGIN"):
                write(runtime, claimed, what)
        left.append(lease_left(runtime, at))

    monkeypatch.setattr(crash, "hook", hook)
    if what == "claim":
        with locked(runtime, at, "UPDATE"):
            runtime.engine.perform(run.id, 1, Delivery("worker"))
    else:
        runtime.engine.perform(run.id, 1, Delivery("worker"))
    assert left == [timedelta(seconds=10)]

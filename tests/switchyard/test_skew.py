"""A machine whose clock is hours off the others': what it writes must not wait for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.switchyard import clock, db
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.claim import claim_run
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.steps import ClaimedRun
from tests.conftest import new_postgres
from tests.support.sides import Fixed, decide_by, environment, fresh

HOURS = timedelta(hours=2)


def _made(url: str) -> Any:
    runtime = fresh(url, environment(url, "redis://127.0.0.1:1"), [MemoryBackend()])
    decide_by(Fixed("memory"))
    return runtime


def test_a_wrong_clock_is_put_right_by_the_database_s(
    postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skewed(by: timedelta) -> None:
        monkeypatch.setattr(db, "utcnow", lambda: clock.utcnow() + by)

    with new_postgres(postgres_server) as url:
        runtime = _made(url)
        skewed(HOURS)
        run = dispatch("noop", {"name": "a"})  # the first thing this process does
        for by in (HOURS, -HOURS, timedelta(days=40), timedelta(0)):
            skewed(by)
            assert abs(runtime.store.clock() - clock.utcnow()) < timedelta(minutes=1)
        due = runtime.db.value(select(R.due_at).where(R.id == run.id))
        assert due <= clock.utcnow()
        runtime.db.dispose()


def test_a_relay_that_is_ahead_keeps_no_run_back(database_url: str) -> None:
    """It ends a lease of somebody alive, and that run may go on at once all the same."""
    runtime = _made(database_url)
    run = dispatch("noop", {"name": "a"})
    now = runtime.store.clock()
    store = replace(runtime.store, clock=lambda: now)
    assert isinstance(claim_run(store, run.id, 1, Delivery("me")), ClaimedRun)
    assert sweep(replace(runtime.store, clock=lambda: now + HOURS)).taken_over == 1
    assert isinstance(claim_run(store, run.id, 3, Delivery("me")), ClaimedRun)
    runtime.db.dispose()

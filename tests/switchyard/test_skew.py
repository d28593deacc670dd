"""A machine whose clock is hours off the others': what it writes must not wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.switchyard import clock, postgres
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.claim import claim_run
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runtime import Runtime
from tests.support.sides import Fixed, decide_by, ledger

HOURS = timedelta(hours=2)


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with ledger(database_url, MemoryBackend()) as made:
        decide_by(Fixed("memory"))
        yield made


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_wrong_clock_is_put_right_by_the_database_s(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skewed(by: timedelta) -> None:
        monkeypatch.setattr(postgres, "utcnow", lambda: clock.utcnow() + by)

    skewed(HOURS)
    run = dispatch("noop", {"name": "a"})  # the first thing this process does
    for by in (HOURS, -HOURS, timedelta(days=40), timedelta(0)):
        skewed(by)
        assert abs(runtime.store.clock() - clock.utcnow()) < timedelta(minutes=1)
    assert runtime.db.value(select(R.due_at).where(R.id == run.id)) <= clock.utcnow()


def test_a_relay_that_is_ahead_keeps_no_run_back(runtime: Runtime) -> None:
    """It ends a lease of somebody alive, and that run may go on at once all the same."""
    run = dispatch("noop", {"name": "a"})
    now = runtime.store.clock()
    store = replace(runtime.store, clock=lambda: now)
    assert isinstance(claim_run(store, run.id, 1, Delivery("me")), ClaimedRun)
    assert sweep(replace(runtime.store, clock=lambda: now + HOURS)).taken_over == 1
    assert isinstance(claim_run(store, run.id, 3, Delivery("me")), ClaimedRun)

"""Many runs at once, or a wrong clock: no statement grows, and nobody waits for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, func, select, text

from app.switchyard import clock, postgres
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.runs.backend import Delivery, Message
from app.switchyard.runs.claim import claim_run
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.relay import look_again, sweep
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runtime import Runtime
from tests.support.sides import Fixed, decide_by, ledger
from tests.support.waiting import PATIENCE_SECONDS
from tests.switchyard.test_suspicion import Service


class Sent(Service):
    """A backend that gives references, keeps all that it was sent, and does nothing else."""

    def queued(self, messages: Sequence[Message]) -> set[str]:
        return {message.run_id for message in messages}


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with ledger(database_url, Sent("inngest"), Sent("rq")) as made:
        decide_by(Fixed("inngest"))
        yield made


on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def _many(count: int) -> list[str]:
    n = uuid4().hex
    time.sleep(0.002)  # an id begins with its millisecond
    return [run.id for run in dispatch_many("noop", [{"name": n} for _ in range(count)])]


def test_references_are_noted_without_a_statement_that_grows(runtime: Runtime) -> None:
    """A CASE of all of them holds SQLite's lock for seconds, and is too long for Postgres."""
    most = 0

    def seen(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        nonlocal most
        if statement.startswith("UPDATE"):
            most = max(most, *(len(one) for one in (parameters if many else [parameters])))

    event.listen(runtime.db.engine, "before_cursor_execute", seen)
    runs = _many(1500)
    noted = runtime.db.value(select(func.count(R.sent_ref)))
    assert noted == len(runs)
    assert 0 < most < 10


def _crosswise(
    runtime: Runtime,
    blocking: Callable[[Any], Any],
    first: Callable[[], Any],
    second: Callable[[], Any],
) -> list[Future[Any]]:
    """Both, begun while something in the middle of what they write is locked."""
    with ThreadPoolExecutor(2) as pool:
        with runtime.db.engine.connect() as connection:
            blocking(connection)
            futures = [pool.submit(first), pool.submit(second)]
            end = time.monotonic() + 20
            waiting = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            while time.monotonic() < end and not all(f.done() for f in futures):
                if (runtime.db.value(waiting) or 0) + sum(f.done() for f in futures) >= 2:
                    break
                time.sleep(0.02)
            connection.rollback()
        return futures


def _lock(run_id: str) -> Callable[[Any], Any]:
    return lambda connection: connection.execute(
        select(R.id).where(R.id == run_id).with_for_update(key_share=True)
    )


@on_postgres
@pytest.mark.parametrize("what", ["look", "refs"])
def test_a_drain_and_the_relay_do_not_wait_for_each_other(runtime: Runtime, what: str) -> None:
    runs = [run for _ in range(30) for run in _many(1)]
    assert runs == sorted(runs)
    later = runtime.store.clock() + timedelta(hours=1)

    def look() -> None:
        look_again(runtime.store, runs, later)

    def refs() -> None:
        runtime.store.send(runs)

    futures = _crosswise(
        runtime,
        _lock(runs[15]),
        look if what == "look" else refs,
        lambda: hand_over(runtime.store, runs, "rq"),
    )
    assert [future.exception() for future in futures] == [None, None]
    at = runtime.db.rows(select(R.backend, func.count()).group_by(R.backend))
    assert [tuple(row) for row in at] == [("rq", 30)]


@on_postgres
def test_the_same_keys_in_another_order(runtime: Runtime) -> None:
    keys = [f"k{number}" for number in range(20)]

    def blocking(connection: Any) -> None:
        columns = "id, job, key, payload, backend, reason, stage, stage_version, status, epoch,"
        connection.execute(
            text(
                f"INSERT INTO switchyard_runs ({columns} sends, attempt, losses, created_at,"
                " due_at, check_at)"
                " VALUES ('x', 'noop', 'k10', '{}', 'rq', '', '', 0, 'pending', 1, 0, 1, 0,"
                " now(), now(), now())"
            )
        )

    def all_of(order: Sequence[str]) -> list[Any]:
        return dispatch_many("noop", [Item({"name": "n"}, key=key) for key in order])

    futures = _crosswise(runtime, blocking, lambda: all_of(keys), lambda: all_of(keys[::-1]))
    assert [future.exception() for future in futures] == [None, None]
    one, other = (future.result() for future in futures)
    assert [run.key for run in one] == [run.key for run in other][::-1] == keys
    assert sum(run.created for run in [*one, *other]) == len(keys)


@on_postgres
def test_a_process_that_stands_still_before_its_commit_holds_up_no_other_s_run(
    runtime: Runtime,
) -> None:
    """It has its run's row locked, and its lease runs out."""
    frozen, other, sent = [run for _ in range(3) for run in _many(1)]
    for run in (frozen, other):
        claimed = claim_run(runtime.store, run, 1, Delivery(f"holder of {run}"))
        assert isinstance(claimed, ClaimedRun)
    later = runtime.store.clock() + timedelta(minutes=30)
    store = replace(runtime.store, clock=lambda: later)
    with ThreadPoolExecutor(1) as pool, runtime.db.engine.connect() as connection:
        for run in (frozen, sent):
            _lock(run)(connection)
        swept = pool.submit(sweep, store)
        try:
            assert swept.result(PATIENCE_SECONDS).taken_over == 1
        finally:
            connection.rollback()
    assert (sweep(store).taken_over, _epochs(runtime)) == (1, {frozen: 3, other: 3, sent: 1})


def _epochs(runtime: Runtime) -> dict[str, int]:
    return {row.id: row.epoch for row in runtime.db.rows(select(R.id, R.epoch))}


# --- a clock that is hours off ------------------------------------------------------------------

HOURS = timedelta(hours=2)


@on_postgres
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

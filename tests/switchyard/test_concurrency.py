"""A job's cap holds over both backends together: slots in the ledger, taken, given back, freed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.sql.dml import UpdateBase

from app.switchyard.db import Database
from app.switchyard.errors import SettingsError
from app.switchyard.job import Catalogue, load
from app.switchyard.runs import claim
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.claim import Asked
from app.switchyard.runs.context import Pause
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow, Status, StepStatus
from app.switchyard.runs.operate import cancel
from app.switchyard.runs.record import Failure
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runs.store import Run
from tests.support import jobs
from tests.support.marks import most_at_once, stays
from tests.support.plans import plans, sent
from tests.support.sides import Side, both, environment, fresh

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Setting(Side):
    """A ledger with a clock of the test's own; nothing is delivered but by the test."""

    now: datetime = NOW

    def ask(self, run: Run) -> Asked:
        epoch = self.row(run.id).epoch
        return claim.ask(self.runtime.store, Delivery("me"), run.id, epoch)

    def claim(self, run: Run, cap: int = jobs.CAP) -> ClaimedRun | None:
        with self.runtime.db.autocommit() as connection:
            row = claim.claim_slot(connection, self.ask(run), "capped", cap)
        if row is None:
            return None
        return ClaimedRun(self.runtime.store, Delivery("me"), self.now, *row)

    def perform(self, run: Run, delivery: Delivery | None = None) -> Outcome:
        epoch = self.row(run.id).epoch
        return self.runtime.engine.perform(run.id, epoch, delivery or Delivery(uuid4().hex))

    def capped(self, count: int) -> list[Run]:
        n = uuid4().hex
        items = [{"name": f"{n}/{i}", "waitSeconds": 0} for i in range(count)]
        return self.dispatch_many("capped", items)

    def slots(self) -> list[int]:
        chosen = select(RunRow.slot).where(RunRow.slot.is_not(None)).order_by(RunRow.slot)
        return [row.slot for row in self.runtime.db.rows(chosen)]


@pytest.fixture
def on(database_url: str) -> Iterator[Setting]:
    environ = environment(database_url, "redis://127.0.0.1:1/0")
    memory = MemoryBackend()
    runtime = fresh(environ, [memory, MemoryBackend("elsewhere")])
    store = replace(runtime.store, clock=lambda: setting.now)
    runtime = replace(runtime, store=store, engine=replace(runtime.engine, store=store))
    setting = Setting("memory", runtime, environ, memory=memory)
    try:
        yield setting
    finally:
        runtime.db.dispose()


class Meanwhile(Delivery):
    """Does something else while it holds its run, in the middle of the first step."""

    def __init__(self, does: Callable[[], object]) -> None:
        super().__init__(uuid4().hex)
        self._does: Callable[[], object] | None = does

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        does, self._does = self._does, None
        if does is not None:
            does()
        return attempt()


class StepByStep(Delivery):
    """One step per call, and comes back by itself, as Inngest does."""

    calls_again = True

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        attempt()
        raise Pause(Outcome(End.WAIT))


def test_one_too_many_is_put_off_and_resent(on: Setting) -> None:
    first, second, third = on.capped(3)
    seen: list[Any] = []

    def too_many() -> None:
        seen.append(on.slots())
        seen.append(on.perform(third))

    inner = Meanwhile(too_many)
    outer = Meanwhile(lambda: seen.append(on.perform(second, inner)))
    assert on.perform(first, outer).end is End.DONE
    slots, refused, done = seen
    assert (slots, refused.end, done.end) == ([1, 2], End.NOT_DUE, End.DONE)
    row = on.row(third.id)
    assert (row.status, row.epoch, row.holder, row.slot) == ("pending", 1, None, None)
    assert timedelta(seconds=1) <= refused.due_at - NOW <= timedelta(seconds=3)
    assert row.due_at == row.send_at == refused.due_at
    assert on.slots() == []
    assert on.memory is not None
    on.memory.queue.clear()  # what dispatch() sent is used up
    assert on.perform(third).end is End.NOT_DUE
    on.now = refused.due_at
    assert sweep(on.runtime.store).sent == 1
    assert [outcome.end for outcome in on.memory.work(on.runtime.engine)] == [End.DONE]


def test_who_keeps_time_and_comes_back_stays_the_holder(
    on: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "SLOT_WAIT_SECONDS", 600.0)  # its call is not held up so long
    mine, *others = on.capped(3)
    delivery = StepByStep("inngest-run")
    assert on.perform(mine, delivery).end is End.WAIT
    assert on.slots() == []
    held = [on.claim(run) for run in others]
    refused = on.perform(mine, delivery)
    row = on.row(mine.id)
    assert (refused.end, refused.due_at) == (End.NOT_DUE, row.due_at)
    assert (row.status, row.holder) == ("waiting", "inngest-run")
    assert (row.check_at, row.send_at) == (row.due_at + on.runtime.store.check, None)
    assert held[0] is not None
    held[0].end(Status.SUCCEEDED, "null", None)
    on.now = row.due_at
    assert [on.perform(mine, delivery).end for _ in range(2)] == [End.WAIT, End.DONE]
    assert on.slots() == [on.row(others[1].id).slot]


def end_of_call(on: Setting, claimed: ClaimedRun) -> None:
    claimed.delivery = StepByStep("me")
    with on.runtime.db.session() as tx:
        claimed.end_step(tx, "step", StepStatus.DONE, 1, result="null")


def moved(on: Setting, claimed: ClaimedRun) -> None:
    hand_over(on.runtime.store, [claimed.run_id], "elsewhere")
    claimed.move()


def taken_over(on: Setting, claimed: ClaimedRun) -> None:
    on.now += on.runtime.store.lease + timedelta(seconds=1)
    assert sweep(on.runtime.store).taken_over == 1


ENDS: dict[str, Callable[[Setting, ClaimedRun], object]] = {
    "one step per call": end_of_call,
    "a step to be tried again": lambda on, claimed: claimed.retry(
        "step", Failure(RuntimeError("error"), 1, "step"), "error", NOW
    ),
    "a sleep": lambda on, claimed: claimed.wait("nap", NOW, NOW),
    "a stop": lambda on, claimed: claimed.give_up(),
    "a move": moved,
    "success": lambda on, claimed: claimed.end(Status.SUCCEEDED, "null", None),
    "failure": lambda on, claimed: claimed.end(Status.FAILED, None, "error"),
    "a cancel": lambda on, claimed: cancel(on.runtime.store, claimed.run_id),
    "a takeover": taken_over,
}


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_a_slice_gives_the_slot_back(on: Setting, how: str) -> None:
    run, waits = on.capped(2)
    claimed = on.claim(run, cap=1)
    assert claimed is not None
    assert (on.slots(), on.claim(waits, cap=1)) == ([1], None)
    ENDS[how](on, claimed)
    assert on.slots() == []
    assert on.claim(waits, cap=1) is not None


def test_a_slot_that_another_took_is_refused_by_the_database(
    on: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = on.capped(2)
    assert on.claim(first, cap=1) is not None
    # As it was a moment ago, when nobody had a slot yet.
    before = select(RunRow.slot).where(RunRow.slot == -1, RunRow.job != "", RunRow.id != "")
    monkeypatch.setattr(claim, "TAKEN", before)
    # Refused so often that it gives up, on a connection that works all the while.
    assert on.claim(second, cap=1) is None
    assert (on.row(second.id).epoch, on.slots()) == (1, [1])


def test_a_lower_cap_counts_those_above_it(on: Setting) -> None:
    runs = on.capped(4)
    assert all(on.claim(run, cap=3) for run in runs[:3])
    assert on.claim(runs[3], cap=2) is None
    (above,) = [run for run in runs[:3] if on.row(run.id).slot == 3]
    for run in runs[:3]:
        if run is not above:
            cancel(on.runtime.store, run.id)
    assert on.slots() == [3]
    assert on.claim(runs[3], cap=1) is None
    assert on.claim(runs[3], cap=2) is not None


def test_a_run_without_a_cap_costs_no_statement_more(
    on: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    past: list[str] = []
    run = on.dispatch("noop", {"name": uuid4().hex})
    execute = Database._execute

    def note(db: Database, statement: UpdateBase, values: dict[str, Any]) -> int:
        past.append(str(statement))
        return execute(db, statement, values)

    monkeypatch.setattr(Database, "_execute", note)
    with sent(on.runtime.db.engine) as statements:
        assert on.runtime.engine.perform(run.id, 1, Delivery("me")).end is End.DONE
    every = [*(statement for statement, _ in statements), *past]
    assert [statement.split()[0] for statement in every] == ["UPDATE", "UPDATE"]


def test_every_statement_on_the_way_to_a_slot_uses_an_index(on: Setting) -> None:
    db = on.runtime.db
    first, second, third = on.capped(3)
    with db.autocommit() as connection, sent(connection) as statements:
        assert claim.claim_uncapped(connection, on.ask(first), ("capped", "payout")) is None
        for run in (first, second):
            assert claim.claim_slot(connection, on.ask(run), "capped", jobs.CAP) is not None
        assert claim.claim_slot(connection, on.ask(third), "capped", jobs.CAP) is None
        assert claim.put_off(connection, on.ask(third), timedelta(0)) is not None
    by_id = "(id=?)" if db.is_sqlite else "pk_switchyard_runs"
    for (statement, _), how in zip(statements, plans(db, statements), strict=True):
        index = "uq_switchyard_runs_slot" if statement.startswith("SELECT") else by_id
        assert index in how, how
    assert [statement.split()[0] for statement, _ in statements] == [
        *("UPDATE", "SELECT", "UPDATE", "SELECT", "UPDATE", "SELECT", "UPDATE")
    ]


def test_a_cap_lets_at_least_one_run() -> None:
    with pytest.raises(SettingsError, match="concurrency 0"):
        Catalogue().add(replace(load("tests.support.jobs")["capped"], concurrency=0))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_both_sides_together_stay_under_the_cap(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    n = uuid4().hex
    runs: list[Run] = []
    with both(database_url, redis_url, tmp_path) as side:
        for side.backend in ("rq", "inngest"):
            items = [{"name": f"{n}/{side.backend}-{i}", "waitSeconds": 0.3} for i in range(4)]
            runs += side.dispatch_many("capped", items)
        assert {row.status for row in side.finish(*runs)} == {"succeeded"}
        inside = stays(side.runtime.db, n)
        assert len(inside) == 2 * len(runs)
        assert 0 < most_at_once(inside) <= jobs.CAP
        assert side.runtime.db.rows(select(RunRow.id).where(RunRow.slot.is_not(None))) == []


def test_its_own_slot_never_stands_in_its_way(on: Setting) -> None:
    """A holder comes back after its lease ran out, before anybody took over."""
    mine, other = on.capped(2)
    assert all(on.claim(run) for run in (mine, other))
    on.now += on.runtime.store.lease + timedelta(seconds=1)
    assert on.perform(mine, Delivery("me")).end is End.DONE
    assert len(on.slots()) == 1


def test_a_step_on_a_worker_keeps_the_slot(on: Setting) -> None:
    (run,) = on.capped(1)
    claimed = on.claim(run)
    assert claimed is not None
    before = on.slots()
    with on.runtime.db.session() as tx:
        claimed.end_step(tx, "step", StepStatus.DONE, 1, result="null")
    assert len(before) == 1
    assert on.slots() == before

"""Retention: exactly what no promise needs goes, and nothing shows that it went."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import DeclarativeBase, Session

from app.switchyard import maintenance
from app.switchyard.cutover.shadow import WRONG, Kind, Parity, prune_shadows
from app.switchyard.cutover.stages import obstacles
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import KeyConflict
from app.switchyard.runs import operate, retention
from app.switchyard.runs.backend import Delivery, End
from app.switchyard.runs.models import (
    OPEN,
    FailureRow,
    HandoffRow,
    RunRow,
    Status,
    StepRow,
    StepStatus,
    id_at,
)
from app.switchyard.runs.retention import prune_steps
from tests.support.marks import touches
from tests.support.plans import plans, sent
from tests.support.rows import run_row, step_row
from tests.support.tables import every_table
from tests.support.world import Dead, InngestDelivery, World, dying_at

MODULES = "tests.support.jobs,app.switchyard.maintenance"
KEPT = 90
AGES = (0, KEPT - 1, KEPT + 1, 400)
"""Days since the end."""
BEFORE_END = (0, 30, 400)
"""Days from a run's making to its end."""
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Rows = dict[str, set[tuple[Any, ...]]]


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    """A whole layer whose run ids begin with the time of its own clock."""
    made = World(tmp_path, modules=MODULES, DATABASE_URL=database_url)
    made.create_tables()
    numbers = itertools.count(1)
    named = patch(
        "app.switchyard.runs.store.new_run_id",
        lambda: f"{id_at(made.time.now)}{next(numbers):014x}",
    )
    with named:
        yield made
    made.close()


def filled(world: World) -> Rows:
    """Everything of every kind and age; what of it is to go."""
    now, numbers = world.time.now, itertools.count(10**6)
    rows: dict[type[DeclarativeBase], list[dict[str, Any]]] = defaultdict(list)
    going: Rows = defaultdict(set)

    def run(job: str, status: str, ended: int, before: int, key: str | None = None) -> str:
        at = now - timedelta(days=ended + before)
        id_ = f"{id_at(at)}{next(numbers):014x}"
        done = status not in OPEN
        row = run_row(id_, job, at, key=key or id_, status=status, started_at=at)
        row["check_at"] = None if done else now + timedelta(days=9)
        row["ended_at"] = now - timedelta(days=ended) if done else None
        rows[RunRow].append(row)
        for number, stands in enumerate((StepStatus.DONE, StepStatus.UNKNOWN)):
            rows[StepRow].append(step_row(id_, at, name=f"s{number}", status=stands))
            if status == Status.SUCCEEDED and ended > KEPT:
                going["switchyard_steps"].add((id_, f"s{number}"))
        since = now - timedelta(days=ended)
        of_run = {"id": next(numbers), "run_id": id_, "job": job, "at": since}
        failed = {"attempt": 1, "backend": "rq", "error": "E", "message": ""}
        rows[FailureRow].append(of_run | failed)
        rows[HandoffRow].append(of_run | {"from_backend": "rq", "to_backend": "q", "epoch": 2})
        if ended > KEPT:
            for name in ("failures", "handoffs"):
                going[f"switchyard_{name}"].add((of_run["id"],))
        return id_

    for status, ended, before in itertools.product(Status, AGES, BEFORE_END):
        run("five-steps", status, ended, before)
    for status, kind, ended, settled in itertools.product(Status, Kind, AGES[1:3], (None, *AGES)):
        live = run("five-steps", Status.SUCCEEDED, 400, 0)
        shadow = run("shadow-compare", status, ended, 0, key=live)
        at = now - timedelta(days=ended)
        wrong = kind in WRONG
        row = {"job": "five-steps", "run_id": live, "kind": kind, "planned_at": at, "differing": 0}
        row["compared_at"] = None if kind == Kind.PLANNED else at
        row["explained_at"] = None
        if wrong and settled is not None:
            row["explained_at"] = now - timedelta(days=settled)
        rows[Parity].append(row)
        if wrong:
            over = settled is not None and settled > KEPT
        else:
            over = kind != Kind.PLANNED and ended > KEPT
        if over:
            going["switchyard_parity"].add((live,))
        if over and status == Status.SUCCEEDED and ended > KEPT:
            going["switchyard_runs"].add((shadow,))
    with world.runtime.db.begin() as connection:
        for kind_, of in rows.items():
            connection.execute(insert(kind_), of)
    return going


NAMED = {"switchyard_steps": ("run_id", "name"), "switchyard_parity": ("run_id",)}
"""What a row is known by, where that is not its primary key."""


def everything(world: World, but: str) -> dict[str, dict[tuple[Any, ...], Any]]:
    """Every row of every table, but for one run and its steps."""
    found = {}
    for name, table in every_table().items():
        columns = NAMED.get(name) or tuple(c.name for c in table.primary_key)
        rows = [row._asdict() for row in world.runtime.db.rows(select(table))]
        found[name] = {
            tuple(row[column] for column in columns): row
            for row in rows
            if but not in (row.get("run_id"), row.get("id"))
        }
    return found


def prune(world: World) -> tuple[str, dict[str, int]]:
    """The job, to its end; its run and what it says it deleted."""
    run = dispatch("prune-ledger", {})
    world.work()
    row = world.row(run.id)
    assert row.status == Status.SUCCEEDED, row.error
    return run.id, json.loads(row.result)


def check_gone(world: World, before: Any, going: Rows, run_id: str) -> None:
    after = everything(world, run_id)
    for name, rows in before.items():
        gone = {key for key in rows if key not in after[name]}
        assert gone == going.get(name, set()), name
        assert all(rows[key] == row for key, row in after[name].items()), name
    assert sum(map(len, going.values())) > 100


@pytest.mark.parametrize("batch", [100, retention.BATCH])
def test_exactly_what_should_go_goes(
    world: World, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(retention, "BATCH", batch)
    going = filled(world)
    before = everything(world, "")
    against = obstacles(world.runtime.db, "five-steps", world.time.now)
    run_id, counts = prune(world)
    check_gone(world, before, going, run_id)
    assert counts["shadows"] == len(going["switchyard_runs"])
    # The gate waits for the same as before.
    assert obstacles(world.runtime.db, "five-steps", world.time.now) == against
    assert prune(world)[1] == dict.fromkeys((*maintenance.PRUNES, "webhooks"), 0)


@on_sqlite
def test_one_day_does_no_more_than_its_share(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 200)
    monkeypatch.setattr(maintenance, "MOST", 4)
    going = filled(world)
    before = everything(world, "")
    runs = []
    while any((pruned := prune(world))[1].values()):
        runs.append(pruned[0])
        assert len(steps_of(world, pruned[0])) <= 4
    # What stays takes its share of each day's; the rest waits, and nothing else goes.
    after = everything(world, "")
    for name, rows in before.items():
        assert {key for key in rows if key not in after[name]} <= going.get(name, set())
    assert runs


@pytest.mark.parametrize("number", range(1, 20, 5))
@on_sqlite
def test_cut_short_anywhere_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(retention, "BATCH", 300)
    going = filled(world)
    before = everything(world, "")
    run = dispatch("prune-ledger", {})
    with dying_at(number), pytest.raises(Dead):
        world.work()
    world.time.pass_(11)
    world.sweep()
    world.work()
    assert world.row(run.id).status == Status.SUCCEEDED
    check_gone(world, before, going, run.id)


@on_sqlite
def test_nothing_goes_where_everything_is_kept(world: World) -> None:
    settings = world.runtime.settings.model_copy(update={"retention_days": 0})
    world.runtime = replace(world.runtime, settings=settings)
    world.install()
    filled(world)
    before = everything(world, "")
    run_id, counts = prune(world)
    assert counts == dict.fromkeys((*maintenance.PRUNES, "webhooks"), 0)
    check = everything(world, run_id)
    assert check == before


def steps_of(world: World, run_id: str) -> list[str]:
    of_run = select(StepRow.name).where(StepRow.run_id == run_id)
    return [row.name for row in world.runtime.db.rows(of_run)]


@on_sqlite
def test_a_pruned_run_is_like_any_other(world: World) -> None:
    """Late deliveries, a repeat of the intent, a sweep: nothing is done again."""
    names = ("five-steps", "parent", "sent-once", "grab-bag")
    runs = {name: dispatch(name, {"name": name}, key=name) for name in names}
    world.finish()
    done, rows = world.marks(), world.rows()
    sent = touches(world.runtime.db, "sent-once/sent")
    assert (sent, touches(world.runtime.db, "grab-bag/once")) == (1, 1)
    world.time.pass_(91 * 86400)
    prune(world)
    assert [steps_of(world, row.id) for row in rows] == [[]] * len(rows)
    for row in rows:
        for epoch in range(1, row.epoch + 2):
            late = f"late-{epoch}"
            for delivery in (Delivery(late), InngestDelivery(late, world.steps)):
                outcome = world.runtime.engine.perform(row.id, epoch, delivery)
                assert outcome.end == End.NOT_MINE
    for name, run in runs.items():
        again = dispatch(name, {"name": name}, key=name)
        assert (again.id, again.created) == (run.id, False)
        with pytest.raises(KeyConflict):
            dispatch(name, {"name": "another"}, key=name)
    world.sweep()
    world.work()
    assert world.marks() == done
    assert touches(world.runtime.db, "sent-once/sent") == 1
    assert world.open() == []


@on_sqlite
def test_a_retry_still_goes_on_from_what_was_done(world: World) -> None:
    fails = {"failAt": 3, "failures": 5}
    failed = dispatch("five-steps", {"name": "f", **fails})
    world.finish()
    napping = dispatch("sleeper", {"name": "s", "waitSeconds": 3600})
    world.work()
    operate.cancel(world.runtime.store, napping.id)
    before = {run.id: steps_of(world, run.id) for run in (failed, napping)}
    assert all(before.values())
    world.time.pass_(400 * 86400)
    prune(world)
    for run in (failed, napping):
        assert steps_of(world, run.id) == before[run.id]
        operate.retry(world.runtime.store, run.id)
    world.finish()
    expected = {f"f/{number}": 1 for number in range(1, 6)} | {"s/before": 1, "s/after": 1}
    assert world.marks() == expected


def test_each_batch_is_found_by_an_index(world: World) -> None:
    """It does not look at all that is kept, which grows for ever."""
    filled(world)
    db, before = world.runtime.db, world.time.now - timedelta(days=KEPT)
    wide = ("SCAN switchyard_runs", "SCAN switchyard_steps", "SCAN switchyard_parity", "Seq Scan")
    for prune_some in (prune_steps, prune_shadows):
        with db.engine.connect() as connection, sent(connection) as statements:
            prune_some(Session(connection), before, "")
        assert len(statements) > 1
        for how in plans(db, statements):
            assert not any(word in how for word in wide), how

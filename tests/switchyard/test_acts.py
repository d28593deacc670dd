"""What an operator does, batch by batch, and what the audit says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import update

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover import shadow
from app.switchyard.cutover.drain import Drain
from app.switchyard.db import Database
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.operations import acts, jobs
from app.switchyard.operations.overview import overview
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow
from flags import Side
from tests.support.plans import analyze, plans, sent
from tests.support.world import World

ADA = By("ada", "2 a.m.")


def to_rq(world: World, job: str | None = None, **how: Any) -> Drain:
    return Drain(world.runtime, job, Side.RQ, **{"running": True, "limit": 2, **how})


def live(world: World, count: int) -> None:
    acts.stage(world.runtime, "child", "live", None, ADA)
    world.time.pass_(1)
    for number in range(count):
        dispatch("child", {"name": f"n{number}"})


def test_a_drain_does_not_wait_long_for_what_the_old_side_still_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old side delivers its messages, and finds that the runs have moved."""
    monkeypatch.setattr(drains, "TAKE_BACK_SECONDS", 0.0)
    live(world, 3)
    assert acts.drain(to_rq(world, limit=None), ADA).done
    assert len(world.inngest.parcels) == 3
    world.finish()
    assert world.marks() == {f"n{number}": 1 for number in range(3)}


def test_runs_that_were_asked_do_not_stand_in_the_way_of_others(world: World) -> None:
    acts.stage(world.runtime, "five-steps", "live", None, ADA)
    world.time.pass_(1)
    held = [dispatch("five-steps", {"name": f"h{number}"}) for number in range(3)]
    with world.runtime.db.begin() as connection:
        connection.exec_driver_sql("UPDATE switchyard_runs SET status = 'running'")
    live(world, 1)
    batches = [acts.drain(to_rq(world), ADA) for _ in range(2)]
    assert [(b.moved.total(), b.asked.total()) for b in batches] == [(0, 2), (1, 1)]
    assert batches[1].left == {"five-steps": len(held)}
    assert acts.drain(to_rq(world, running=False), ADA).moved == {}


def test_a_number_that_no_act_can_have_is_an_unknown_one(world: World) -> None:
    with pytest.raises(BadInput, match="no drain of ada"):
        acts.drain(to_rq(world), ADA, 10**15)
    with pytest.raises(BadInput, match="not an unexplained difference"):
        shadow.explain(world.runtime.db, [10**15], None, ADA, world.time.now)
    assert audit.history(world.runtime.db, before=10**15) == []


@pytest.mark.parametrize("act", ["retry", "cancel"])
def test_an_act_and_its_record_are_one(world: World, act: str) -> None:
    run = dispatch("refuser", {"name": "x"})
    if act == "retry":
        world.work()
    do: Callable[..., int] = operate.retry if act == "retry" else operate.cancel
    before = world.row(run.id)
    gone = patch.object(audit, "record", side_effect=RuntimeError("the database is gone"))
    with gone, pytest.raises(RuntimeError):
        do(world.runtime.store, run.id, by=ADA)
    assert (world.row(run.id), audit.history(world.runtime.db, run_id=run.id)) == (before, [])
    do(world.runtime.store, run.id, by=ADA)
    (one,) = audit.history(world.runtime.db, run_id=run.id)
    assert (one["act"], one["who"], one["count"]) == (act, "ada", 1)


def test_a_job_that_the_code_has_forgotten_is_shown_all_the_same(world: World) -> None:
    run = dispatch("child", {"name": "forgotten"})
    with world.runtime.db.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run.id).values(job="forgotten"))
    assert [job["known"] for job in overview(world.runtime, {}).jobs][-1] is False
    assert jobs.every(world.runtime)["jobs"][-1]["name"] == "forgotten"


@pytest.mark.parametrize(
    ("who", "why"), [("", ""), ("x" * 101, ""), ("guardrail", ""), ("a", "w" * 2001), ("a", "\0b")]
)
def test_who_and_why_are_what_a_history_can_keep(who: str, why: str) -> None:
    with pytest.raises(BadInput):
        By.person(who, why)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({"job": "rare"}, "job"),
        ({"job": "job-1", "act": "stage"}, "job_act"),
        ({"act": "pin"}, "act"),
        ({"run_id": "r"}, "run"),
    ],
)
def test_of_many_acts_only_those_asked_for_are_read(
    db: Database, wanted: dict[str, Any], index: str
) -> None:
    with db.begin() as connection:
        for number in range(100):
            what: dict[str, Any] = {"job": f"job-{number % 10}", "run_id": "a"}
            act = "run" if number % 9 else "stage"
            audit.record(connection, act, ADA, utcnow(), **what)
        columns = "at, act, job, run_id, who, why, count"
        for _ in range(8):
            connection.exec_driver_sql(
                f"INSERT INTO switchyard_audit ({columns}) SELECT {columns} FROM switchyard_audit"
            )
    analyze(db)
    with sent(db.engine) as asked:
        audit.history(db, **wanted)
    (plan,) = plans(db, asked)
    assert re.search(rf"ix_switchyard_audit_{index}\W", plan), plan

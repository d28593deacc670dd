"""An Inngest that accepts and never runs, runs twice, or is unavailable: seen in `cutover status`,
and sent again."""

from __future__ import annotations

from typing import Any

import pytest

from app.switchyard.audit import By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import stages
from app.switchyard.cutover.status import LATE, OPEN, cutover_status, unreachable
from app.switchyard.dispatch import dispatch
from tests.support.plans import plan_of
from tests.support.world import World


@pytest.fixture
def world(world: World) -> World:
    """Its job is live."""
    stages.set_stage(world.runtime.db, "five-steps", "live", None, By("t", "t"), world.time())
    world.time.pass_(1)
    return world


def status(world: World) -> tuple[Any, Any, Any]:
    shown = cutover_status(world.runtime, ["five-steps"])
    (job,) = shown["jobs"]
    return (
        job["open"]["inngest"],
        job["overdue"]["inngest"],
        list(unreachable(world.runtime, shown)),
    )


@pytest.mark.parametrize("fault", ["swallows", "away", "unsure", "doubles"])
def test_it_is_seen_and_resent(world: World, fault: str) -> None:
    setattr(world.inngest, fault, True)
    run = dispatch("five-steps", {"name": "n"})
    later = dispatch("five-steps", {"name": "later"}, delay=3600)
    away = ["inngest"] if fault == "away" else []
    assert status(world) == (2, 0, away)
    if fault in ("swallows", "away"):
        for _ in range(20):
            world.time.pass_(10)
            world.sweep()
            world.work()
        assert world.row(run.id).status == "pending"
        assert status(world) == (2, 1, away)
    world.calm()
    world.finish()
    assert {world.row(one.id).status for one in (run, later)} == {"succeeded"}
    assert world.row(later.id).started_at >= world.row(later.id).due_at
    assert set(world.marks().values()) == {1}
    assert status(world) == (0, 0, [])


def test_what_runs_or_waits_its_turn_is_not_overdue(world: World) -> None:
    dispatch("five-steps", {"name": "n"})
    ((queue, parcel),) = world.due()
    queue.deliver(parcel)  # one step done; Inngest has it and comes back
    world.time.pass_(2 * LATE.total_seconds())
    assert status(world) == (1, 0, [])


def test_overdue_reads_the_index_of_open_runs(world: World) -> None:
    lines = plan_of(world.runtime.db, lambda on: on.execute(OPEN, {"late": utcnow()}))
    assert any("INDEX ix_switchyard_runs_open (check_at>?)" in line for line in lines)

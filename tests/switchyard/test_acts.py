"""What an operator does, batch by batch, and what the audit says of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover import stages
from app.switchyard.cutover.drain import Drain
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable, BadInput, RunNotMovable
from app.switchyard.operations import acts
from app.switchyard.runs import operate
from flags import Side
from tests.support.world import World

ADA = By("ada", "2 a.m.")


def on_record(world: World, *, but: str = "stage") -> list[dict[str, Any]]:
    return [one for one in audit.history(world.runtime.db) if one["act"] != but]


def to_rq(world: World, job: str | None = None, **how: Any) -> Drain:
    return Drain(world.runtime, job, Side.RQ, **{"running": True, "limit": 2, **how})


def live(world: World, count: int) -> None:
    acts.stage(world.runtime, "child", "live", None, ADA)
    world.time.pass_(1)
    for number in range(count):
        dispatch("child", {"name": f"n{number}"})


def test_a_drain_goes_on_batch_by_batch_and_is_one_act(world: World) -> None:
    live(world, 5)
    assert acts.would_move(world.runtime, None, Side.RQ) == 5
    assert acts.would_move(world.runtime, "child", Side.SERVERLESS) == 0
    act, seen = None, []
    while True:
        batch = acts.drain(to_rq(world), ADA, act)
        act = batch.act
        seen.append((batch.moved.total(), batch.left.total(), batch.done))
        # Their old side has forgotten those that moved.
        assert len(world.inngest.parcels) == batch.left.total()
        if batch.done:
            break
    assert seen == [(2, 3, False), (2, 1, False), (1, 0, True)]
    (one,) = on_record(world)
    assert (one["act"], one["who"], one["why"], one["count"]) == ("drain", "ada", "2 a.m.", 5)
    assert (one["job"], one["detail"]) == (None, {"to": "rq"})
    with pytest.raises(BadInput, match="no drain of eve"):
        acts.drain(to_rq(world), By("eve"), act)


def test_a_drain_does_not_wait_long_for_what_the_old_side_still_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It delivers them, and they have moved."""
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


def test_a_rollback_is_done_when_every_process_has_seen_the_flip(world: World) -> None:
    live(world, 3)
    first = acts.rollback(to_rq(world, "child"), ADA)
    second = acts.rollback(to_rq(world, "child"), ADA, first.act)
    assert (first.moved, second.moved) == ({"child": 2}, {"child": 1})
    assert (second.left, second.done) == ({}, False)
    world.time.pass_(2)
    assert acts.rollback(to_rq(world, "child"), ADA, first.act).done
    assert [row.stage for row in stages.current_stages(world.runtime.db)] == ["legacy"]
    assert [(one["act"], one["job"], one["count"]) for one in on_record(world)] == [
        ("rollback", "child", 3)
    ]
    with pytest.raises(BadInput, match="say why"):
        acts.rollback(to_rq(world, "child"), By("ada", "  "))


def test_nothing_is_drained_to_where_nobody_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(world, 1)

    def gone() -> None:
        raise BackendUnavailable("rq: gone")

    monkeypatch.setattr(world.runtime.store.backends["rq"], "ping", gone)
    with pytest.raises(BackendUnavailable):
        acts.drain(to_rq(world), ADA)
    assert on_record(world) == []


def test_retry_cancel_and_run_now_are_on_record_with_how_many(world: World) -> None:
    run = acts.run_now(world.runtime, "child", {"name": "x"}, ADA)
    assert operate.cancel(world.runtime.store, run.id, by=ADA) == 0
    with pytest.raises(RunNotMovable):
        operate.cancel(world.runtime.store, run.id, by=ADA)
    assert operate.retry(world.runtime.store, run.id, By("bob")) == 0
    assert [(o["act"], o["who"], o["why"], o["run_id"], o["count"]) for o in on_record(world)] == [
        ("retry", "bob", "", run.id, 1),
        ("cancel", "ada", "2 a.m.", run.id, 1),
        ("run", "ada", "2 a.m.", run.id, 1),
    ]


@pytest.mark.parametrize(
    ("who", "why"), [("", ""), ("x" * 101, ""), ("guardrail", ""), ("a", "w" * 2001), ("a", "\0b")]
)
def test_who_and_why_are_what_a_history_can_keep(who: str, why: str) -> None:
    with pytest.raises(BadInput):
        By.person(who, why)

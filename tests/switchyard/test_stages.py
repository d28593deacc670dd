"""Moving jobs from stage to stage: what is refused, what is on record, and the gate at the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count, product
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update

import flags
from app.switchyard import audit
from app.switchyard.audit import GUARDRAIL, By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import drain, shadow, stages
from app.switchyard.cutover.shadow import Kind, Parity
from app.switchyard.cutover.stages import CALM
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, GateClosed, StageRefused
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import Side, Stage
from tests.support.sides import decide_by, ledger
from tests.support.waiting import PATIENCE_SECONDS

JOB = "five-steps"


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with ledger(database_url, MemoryBackend("rq")) as runtime:
        yield runtime


def move(runtime: Runtime, stage: str, percent: float | None = None, **more: Any) -> Any:
    given: dict[str, Any] = {"by": By("ada", "because"), "now": utcnow()} | more
    return stages.set_stage(runtime.db, JOB, stage, percent, **given)


def standing(runtime: Runtime) -> str:
    return next(
        (row.stage for row in stages.current_stages(runtime.db) if row.job == JOB), "legacy"
    )


WAYS: dict[Stage, list[tuple[str, float | None]]] = {
    Stage.LEGACY: [("live", None), ("legacy", None)],
    Stage.SHADOW: [("shadow", None)],
    Stage.RAMP: [("ramp", 0.1)],
    Stage.LIVE: [("live", None)],
    Stage.COMPLETE: [("live", None), ("complete", None)],
}
MADE_FROM = {
    Stage.LEGACY: {Stage.SHADOW, Stage.RAMP, Stage.LIVE},
    Stage.SHADOW: {Stage.LEGACY, Stage.RAMP, Stage.LIVE},
    Stage.RAMP: {Stage.LEGACY, Stage.SHADOW, Stage.LIVE, Stage.RAMP},
    Stage.LIVE: {Stage.LEGACY, Stage.SHADOW, Stage.RAMP, Stage.COMPLETE},
    Stage.COMPLETE: {Stage.LEGACY, Stage.LIVE},
}


def test_every_move_is_made_or_refused_and_then_changes_nothing(runtime: Runtime) -> None:
    for before, to in product(Stage, Stage):
        with runtime.db.begin() as connection:
            connection.execute(delete(stages.StageChange))
        for way in WAYS[before]:
            move(runtime, *way)
        records = len(audit.history(runtime.db, act="stage"))
        percent = 50.0 if to == Stage.RAMP else None
        if to in MADE_FROM[before]:
            change = move(runtime, to, percent)
            assert (change.from_stage, change.to_stage, change.by) == (before, to, "ada")
        else:
            with pytest.raises(StageRefused):
                move(runtime, to, percent, force=to == Stage.COMPLETE)
            assert standing(runtime) == before
            assert len(audit.history(runtime.db, act="stage")) == records


def test_a_ramp_goes_up_and_down_and_to_a_tenth_of_a_percent(runtime: Runtime) -> None:
    for percent in (0.1, 50, 100, 1):
        move(runtime, "ramp", percent)
    with pytest.raises(StageRefused, match="is already at ramp 1 %"):
        move(runtime, "ramp", 1)
    with pytest.raises(StageRefused, match="for pinned keys"):
        move(runtime, "ramp", 0)
    stages.pin(runtime.db, JOB, ["ana"], Side.SERVERLESS, By("ada", "w"), utcnow())
    move(runtime, "ramp", 0)
    history = [change["percent"] for change in audit.history(runtime.db, job=JOB, act="stage")]
    assert history == [0, 1, 100, 50, 0.1]


def test_of_two_moves_at_once_one_is_made(runtime: Runtime) -> None:
    move(runtime, "live")
    (row,) = stages.current_stages(runtime.db)

    def try_it(number: int) -> str:
        try:
            move(runtime, "ramp", number + 1, expected=row.version)
        except StageRefused as refused:
            return str(refused)
        return "made"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(try_it, range(8)))
    assert said.count("made") == 1
    assert len(audit.history(runtime.db, job=JOB, act="stage")) == 2
    # As for a second writer who read before the first one wrote.
    with runtime.db.session() as tx, pytest.raises(StageRefused, match="somebody else"):
        stages._add(tx, _follower(row.version))


def _follower(version: int) -> dict[str, Any]:
    given = {"at": utcnow(), "job": JOB, "from_stage": "live", "to_stage": "legacy"}
    return given | {"by": "t", "why": "w", "follows": version, "forced": False, "percent": None}


def test_a_rollback_is_an_off_switch_for_another_provider_too(runtime: Runtime) -> None:
    drain._flip(runtime, JOB, By("ada", "back"))
    assert audit.history(runtime.db, act="stage") == []
    settings = runtime.settings.model_copy(update={"flag_provider": "a:b"})
    for _ in range(2):
        drain._flip(replace(runtime, settings=settings), JOB, By("ada", "back"))
    (change,) = audit.history(runtime.db, act="stage")
    assert (change["from"], change["to"]) == ("legacy", "legacy")


# --- the gate -----------------------------------------------------------------------------------


def differs(runtime: Runtime, kind: Kind, run: str) -> None:
    row = {"job": JOB, "run_id": run, "kind": kind, "planned_at": utcnow(), "differing": 1}
    with runtime.db.begin() as connection:
        connection.execute(insert(Parity).values(row))


def test_the_gate_names_what_speaks_against_it_and_opens_when_it_is_gone(
    runtime: Runtime,
) -> None:
    decide_by(flags.Flags(lambda: (), lambda job: "inngest", environ={}))
    run = dispatch(JOB, {"name": "a"})
    dispatch("noop", {"name": "of another job"})
    for number, kind in enumerate(Kind):
        differs(runtime, kind, f"r{number}")
    fired = utcnow() - CALM + timedelta(minutes=1)
    move(runtime, "live", now=fired)
    stages.set_stage(runtime.db, JOB, "ramp", 10.0, By(GUARDRAIL, "bad"), fired)
    move(runtime, "live")
    with pytest.raises(GateClosed) as closed:
        move(runtime, "complete")
    for said in ("1 open run on the old side", "2 differences", "the guardrail fired at"):
        assert said in str(closed.value)
    assert standing(runtime) == "live"
    with runtime.db.begin() as connection:
        connection.execute(update(R).where(R.id == run.id).values(backend="inngest"))
    assert shadow.explain(runtime.db, [], JOB, By("ada", "a known one"), utcnow()) == 2
    with pytest.raises(GateClosed) as closed:
        move(runtime, "complete")
    assert str(closed.value).startswith(f"{JOB} is not complete: the guardrail fired at")
    change = move(runtime, "complete", now=utcnow() + timedelta(minutes=2))
    assert (change.to_stage, change.forced) == ("complete", False)
    back = move(runtime, "live")
    assert (back.from_stage, back.to_stage) == ("complete", "live")


# --- pins ---------------------------------------------------------------------------------------


def test_pins_are_read_with_the_stages_and_kept_as_history(runtime: Runtime) -> None:
    move(runtime, "ramp", 1)

    def change(keys: list[str], side: str | None) -> int:
        return stages.pin(runtime.db, JOB, keys, side, By("ada", "first"), utcnow())

    assert change(["ana", "bo", "ana"], "serverless") == 2
    assert change(["bo"], "rq") == 1
    assert change(["bo"], "rq") == 0
    assert change(["ana", "nobody"], None) == 1
    (row,) = stages.current_stages(runtime.db)
    assert row.pins == (("bo", "rq"),)
    (pin,) = stages.pinned_keys(runtime.db, JOB)
    pinned = {"job": JOB, "key": "bo", "side": "rq", "by": "ada", "why": "first"}
    assert pin == pinned | {"at": pin["at"]}
    assert stages.pinned_keys(runtime.db, "noop") == []
    for keys, side in (([f"c{n}" for n in range(stages.MOST_PINS)], "rq"), (["x"], "banana")):
        with pytest.raises(BadInput):
            change(keys, side)
    assert len(stages.pinned_keys(runtime.db)) == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_locked_store_counts_as_unavailable(runtime: Runtime) -> None:
    """An ALTER TABLE that waits for a transaction locks it so, and the last known stage serves."""
    move(runtime, "live")
    hours = count(0, 3600)
    asked = flags.Flags(
        lambda: stages.current_stages(runtime.db),
        lambda _job: "inngest",
        environ={"USE_INNGEST": "true"},
        monotonic=lambda: next(hours),
    )
    assert asked.decide(JOB, "k")[:2] == ("inngest", "STATIC")
    with ThreadPoolExecutor(1) as pool, runtime.db.engine.connect() as connection:
        connection.execute(text("LOCK TABLE switchyard_stage_changes IN ACCESS EXCLUSIVE MODE"))
        answer = pool.submit(asked.decide, JOB, "k")
        try:
            assert answer.result(PATIENCE_SECONDS)[:2] == ("inngest", "STALE")
        finally:
            connection.rollback()
    assert asked.decide(JOB, "k").reason == "STATIC"

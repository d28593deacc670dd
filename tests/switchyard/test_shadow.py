"""Shadow: RQ does the work, the serverless side says what it would have done, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import DBAPIError

import flags
from app.platform.gateways.stripe_answers import StripeUnknownOutcome
from app.switchyard import effects
from app.switchyard.audit import By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.shadow import Kind, Parity
from app.switchyard.dispatch import dispatch, dispatch_many
from app.switchyard.errors import EffectHeld
from app.switchyard.maintenance import PATIENCE
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime, install
from tests.support.marks import Mark, marks
from tests.support.plans import sent
from tests.support.platform import Platform, platform
from tests.support.shadowed import write
from tests.support.sides import Side, both, decide_by, ledger
from tests.support.waiting import until

__all__ = ["platform"]

JOBS = "tests.support.jobs,tests.support.shadowed,app.switchyard.maintenance"
NOWHERE = "http://127.0.0.1:1"


def staged(runtime: Runtime, switch: str = "true") -> None:
    """This process decides by the stage store."""
    install(runtime)
    environ = {"USE_INNGEST": switch}
    decide_by(
        flags.Flags(
            lambda: stages.current_stages(runtime.db), lambda job: "inngest", environ=environ
        )
    )


def to_shadow(runtime: Runtime, job: str) -> None:
    now = runtime.store.clock()
    stages.set_stage(runtime.db, job, "shadow", None, By("test", "compare"), now)


def rows(runtime: Runtime) -> dict[str, Parity]:
    with runtime.db.session() as tx:
        return {row.run_id: row for row in tx.scalars(select(Parity))}


def runs(runtime: Runtime, job: str) -> list[Any]:
    return runtime.db.rows(select(R.__table__).where(R.job == job))


# --- on real parts ------------------------------------------------------------------------------


@pytest.fixture
def side(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Side]:
    more = {"SWITCHYARD_JOBS": JOBS, "STRIPE_API_BASE": NOWHERE}
    more["STORAGE_URL"] = (tmp_path / "storage").as_uri()
    with both(database_url, redis_url, tmp_path, **more) as made:
        yield made


CASES: dict[str, tuple[dict[str, Any], Kind, str]] = {
    "equal": ({}, Kind.EQUAL, ""),
    "different": ({"planned": 7}, Kind.DIFFERENT, ""),
    "live fails": ({"liveFails": True}, Kind.LIVE_FAILED, "the live run fails"),
    "plan raises": ({"tries": "raise"}, Kind.PLAN_FAILED, "no plan today"),
    "plan writes": ({"tries": "write"}, Kind.PLAN_FAILED, "read"),
    "plan commits": ({"tries": "own transaction"}, Kind.PLAN_FAILED, "EffectHeld"),
    "plan pays": ({"tries": "stripe"}, Kind.PLAN_FAILED, "EffectHeld"),
    "plan stores": ({"tries": "storage"}, Kind.PLAN_FAILED, "EffectHeld"),
    "plan dispatches": ({"tries": "dispatch"}, Kind.PLAN_FAILED, "EffectHeld"),
    "plan hides it": ({"tries": "quietly"}, Kind.PLAN_FAILED, "calling Stripe"),
}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_rq_works_and_inngest_compares(side: Side, tmp_path: Path) -> None:
    staged(side.runtime)
    for job in ("order", "planless"):
        to_shadow(side.runtime, job)
    live = {name: dispatch("order", {"name": name, **how}) for name, (how, _, _) in CASES.items()}
    plain = dispatch("planless", {"name": "plain"})
    assert {run.backend for run in [*live.values(), plain]} == {"rq"}
    side.finish(*live.values(), plain)
    until(
        lambda: all(row.check_at is None for row in runs(side.runtime, "shadow-compare")),
        lambda: runs(side.runtime, "shadow-compare"),
    )
    shadows = runs(side.runtime, "shadow-compare")
    assert {(row.backend, row.reason, row.status) for row in shadows} == {
        ("inngest", "SHADOW", "succeeded")
    }
    assert {row.key for row in shadows} == {run.id for run in live.values()}
    found = rows(side.runtime)
    for name, (_, kind, error) in CASES.items():
        row = found[live[name].id]
        assert (row.kind, error in (row.error or "")) == (kind, True), (name, row.kind, row.error)
        assert row.planned is None or kind is Kind.PLAN_FAILED
    different = found[live["different"].id]
    assert json.loads(different.found or "") == [{"field": "amount", "planned": 7, "live": 5}]
    # Each live run had its one effect, and no shadow had any.
    assert marks(side.runtime.db) == {f"order/{name}": 1 for name in CASES} | {"planless/plain": 1}
    assert runs(side.runtime, "child") == []
    assert not (tmp_path / "storage").exists()
    wrong = len([kind for _, kind, _ in CASES.values() if kind in shadow.WRONG])
    assert shadow.counts(side.runtime.db)["order"] == {
        "compared": wrong + 1,
        "different": wrong,
        "unexplained": wrong,
    }


# --- in one process -----------------------------------------------------------------------------


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    backends = map(MemoryBackend, ("rq", "inngest", "qstash"))
    with ledger(database_url, *backends, SWITCHYARD_JOBS=JOBS) as runtime:
        staged(runtime)
        yield runtime


def work(runtime: Runtime, backend: str) -> None:
    memory: Any = runtime.store.backends[backend]
    memory.work(runtime.engine)


def send(runtime: Runtime) -> None:
    """What the relay does for the shadows."""
    ids = [row.id for row in runs(runtime, "shadow-compare") if row.check_at is not None]
    runtime.store.send(ids)


def long_ago(runtime: Runtime) -> None:
    """Whatever shadows wait for is due."""
    with runtime.db.begin() as connection:
        due = {"due_at": utcnow() - timedelta(seconds=1)}
        still = R.check_at.is_not(None)
        connection.execute(update(R).where(R.job == "shadow-compare", still).values(due))
        past = "'2020-01-01 00:00:00+00'"
        back = f"UPDATE switchyard_steps SET until = {past} WHERE until IS NOT NULL"
        if runtime.db.is_sqlite:
            back = back.replace("+00", ".000000")
        connection.exec_driver_sql(back)


def test_a_live_run_pays_one_row_more_and_no_call(runtime: Runtime) -> None:
    to_shadow(runtime, "order")
    serverless: Any = runtime.store.backends["inngest"]
    with sent(runtime.db.engine) as statements:
        run = dispatch("order", {"name": "a"}, key="k")
    assert sum(one.startswith("INSERT") for one, _ in statements) == 2
    assert not serverless.queue
    (shadow,) = runs(runtime, "shadow-compare")
    assert (shadow.key, shadow.status, shadow.stage) == (run.id, "pending", "shadow")
    assert shadow.send_at <= runtime.store.clock()
    # The same intent again is no second shadow.
    assert not dispatch("order", {"name": "a"}, key="k").created
    dispatch_many("order", [{"name": "b"}, {"name": "c"}])
    assert len(runs(runtime, "shadow-compare")) == 3


def test_a_job_s_own_serverless_side_shadows_it(runtime: Runtime) -> None:
    to_shadow(runtime, "posted-order")
    run = dispatch("posted-order", {"name": "a"})
    work(runtime, "rq")
    (shadow,) = runs(runtime, "shadow-compare")
    assert shadow.backend == "qstash"
    for _ in range(2):
        send(runtime)
        work(runtime, "qstash")
        long_ago(runtime)
    send(runtime)
    work(runtime, "qstash")
    assert rows(runtime)[run.id].kind == Kind.EQUAL


def test_it_is_written_with_the_live_run_or_not_at_all(runtime: Runtime) -> None:
    to_shadow(runtime, "order")

    def dispatch_and_fail() -> None:
        with runtime.db.session() as tx:
            dispatch("order", {"name": "a"}, session=tx)
            raise RuntimeError("the caller's work fails")

    with pytest.raises(RuntimeError):
        dispatch_and_fail()
    assert runs(runtime, "shadow-compare") == runs(runtime, "order") == []
    with runtime.db.session() as tx:
        dispatch("order", {"name": "a"}, session=tx)
    assert len(runs(runtime, "shadow-compare")) == len(runs(runtime, "order")) == 1


def test_only_stage_shadow_has_shadows_and_the_master_switch_ends_them(
    runtime: Runtime,
) -> None:
    for stage, switch in (("legacy", "true"), ("live", "true"), ("shadow", "false")):
        stages.set_stage(runtime.db, "order", stage, None, By("t", "w"), utcnow())
        staged(runtime, switch)
        dispatch("order", {"name": stage})
    assert runs(runtime, "shadow-compare") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_it_waits_for_the_live_run_and_gives_up_in_the_end(runtime: Runtime) -> None:
    to_shadow(runtime, "order")
    run, other = dispatch_many("order", [{"name": "a"}, {"name": "b", "planned": 6}])
    runtime.store.backends["rq"].queue.clear()  # type: ignore[attr-defined]
    waited = timedelta(0)
    while rows(runtime).get(run.id) is None or rows(runtime)[run.id].kind == Kind.PLANNED:
        send(runtime)
        work(runtime, "inngest")
        for row in runs(runtime, "shadow-compare"):
            if row.check_at is not None:
                waited = max(waited, row.due_at - runtime.store.clock())
        long_ago(runtime)
    assert timedelta(minutes=50) < waited < PATIENCE
    assert rows(runtime)[run.id].kind == rows(runtime)[other.id].kind == Kind.LIVE_OPEN
    assert shadow.counts(runtime.db)["order"]["compared"] == 0


def test_of_many_shadows_the_latest_are_counted(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MOST_COUNTED", 3)
    kinds = [*4 * [Kind.DIFFERENT], Kind.EQUAL, Kind.PLAN_FAILED, Kind.LIVE_FAILED]
    row = {"job": "order", "planned_at": utcnow(), "differing": 0}
    shadows = [row | {"run_id": str(number), "kind": kind} for number, kind in enumerate(kinds)]
    shadows.append(row | {"job": "planless", "run_id": "other", "kind": Kind.EQUAL})
    with runtime.db.begin() as connection:
        connection.execute(insert(Parity), shadows)
    assert shadow.counts(runtime.db) == {
        "order": {"compared": 2, "different": 1, "unexplained": 3},
        "planless": {"compared": 1, "different": 0, "unexplained": 0},
    }


def test_a_write_in_a_reading_transaction_is_refused_and_the_connection_writes_again(
    runtime: Runtime,
) -> None:
    for _ in range(3):
        with pytest.raises(DBAPIError), runtime.db.reading() as tx:
            tx.execute(write())
        with runtime.db.begin() as connection:
            connection.execute(insert(Mark).values(what="fine", backend="rq", pid=1))
    assert marks(runtime.db) == {"fine": 3}


def test_a_plan_holds_up_no_writer(runtime: Runtime) -> None:
    with runtime.db.reading() as tx:
        assert tx.scalars(select(Mark.what)).all() == []
        with runtime.db.begin() as connection:
            connection.execute(insert(Mark).values(what="meanwhile", backend="rq", pid=1))
        assert tx.scalars(select(Mark.what)).all() == []
    assert marks(runtime.db) == {"meanwhile": 1}


def test_effects_are_held_in_their_block_only(runtime: Runtime) -> None:
    with effects.held() as tried:
        for use in (runtime.db.begin, runtime.db.autocommit, runtime.db.session):
            with pytest.raises(EffectHeld), use():
                pass
        with pytest.raises(EffectHeld):
            runtime.cache.get("x")
        with pytest.raises(EffectHeld):
            runtime.store.send_messages([])
    assert len(tried) == 5
    with runtime.db.begin():
        pass


# --- the product's own plans --------------------------------------------------------------------


OWN = {
    "process-payouts": {"payoutDate": "2025-01-15"},
    "daily-earnings-rollup": {"targetDate": "2025-01-10"},
}


@pytest.mark.parametrize("job", OWN)
def test_a_plan_is_the_same_amid_its_live_run(platform: Platform, job: str) -> None:
    """And before and after it, as test_eligibility and test_rollup say."""
    platform.seed(30, 20)
    # The run pauses half way, and goes on in a later round.
    lost = StripeUnknownOutcome("on purpose")
    platform.failing((True, lost), (False, lost))
    run = dispatch(job, OWN[job])
    platform.queue.work(platform.engine, 1)
    half = {payout.status for payout in platform.payouts()}
    assert job != "process-payouts" or len(half) > 1
    dispatch("shadow-compare", {"runId": run.id})
    platform.queue.queue.rotate(1)
    platform.drain()
    row = rows(platform.runtime)[run.id]
    assert (row.kind, row.found, row.error) == (Kind.EQUAL, None, None)
    assert platform.run(run.id).status == "succeeded"


def test_a_payout_that_the_plan_does_not_know_is_a_difference(platform: Platform) -> None:
    platform.seed(10, 5)
    run = dispatch("process-payouts", OWN["process-payouts"])
    dispatch("shadow-compare", {"runId": run.id})
    platform.queue.queue.rotate(1)
    platform.queue.work(platform.engine, 1)
    platform.creator()
    platform.drain()
    row = rows(platform.runtime)[run.id]
    found = {one["field"]: one for one in json.loads(row.found or "[]")}
    assert (row.kind, row.differing) == (Kind.DIFFERENT, 2)
    assert set(found) == {"requested", "payouts.ana:usd"}
    assert found["payouts.ana:usd"] == {"field": "payouts.ana:usd", "live": 50_000}

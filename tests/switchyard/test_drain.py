"""Draining and rolling back: all that is open comes along, once, and the count of it is exact."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.platform.config import load
from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import stages
from app.switchyard.cutover.drain import Drain, Drained, rollback
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import HandoffRow, RunRow
from flags import Side
from tests.support.cli import Cli
from tests.support.forks import forked
from tests.support.machine import Stop
from tests.support.sides import Fixed, build, decide_by, environment, fresh, relaying, rq_worker
from tests.support.sides import Side as OneSide
from tests.support.world import Dead, World, dying_at

OTHER = {Side.RQ: Side.SERVERLESS, Side.SERVERLESS: Side.RQ}
BACKEND = {Side.RQ: "rq", Side.SERVERLESS: "inngest"}


def live(world: World, side: Side, *jobs: str) -> None:
    """New runs go to this side; children need no stage."""
    if side == Side.SERVERLESS:
        for job in jobs:
            now = world.time()
            stages.set_stage(world.runtime.db, job, "live", None, By("test", "test"), now)
        world.time.pass_(1)


def drain(world: World, to: Side, job: str | None = None, *, running: bool = False) -> Drained:
    stop: Any = Stop(world)
    return Drain(world.runtime, job, to, running, 0.0, stop)()


def counts(drained: Drained) -> tuple[int, int, int]:
    return drained.moved.total(), drained.asked.total(), drained.left.total()


@pytest.mark.parametrize("to", list(Side))
def test_pending_delayed_sleeping_and_joining_runs_move_at_once(world: World, to: Side) -> None:
    live(world, OTHER[to], "child", "sleeper", "parent")
    asleep = dispatch("sleeper", {"name": "asleep", "waitSeconds": 9})
    joins = dispatch("parent", {"name": "joins", "children": 2})
    while world.row(joins.id).status != "waiting" or "mark" in str(world.marks()):
        queue, parcel = world.due()[0]
        queue.deliver(parcel)
        if len(world.rows()) == 4 and world.row(asleep.id).due_at > world.time():
            break
    pending = dispatch("child", {"name": "pending"})
    delayed = dispatch("child", {"name": "delayed"}, delay=timedelta(days=3))
    due = {row.id: row.due_at for row in world.open()}
    assert len(due) == 6
    assert counts(drain(world, to)) == (6, 0, 0)
    assert {row.id: row.due_at for row in world.open()} == due
    assert {row.backend for row in world.open()} == {BACKEND[to]}
    old = world.queues[BACKEND[OTHER[to]]]
    assert old.parcels == []
    assert counts(drain(world, to)) == (0, 0, 0)
    world.finish()
    assert world.row(delayed.id).started_at >= due[delayed.id]
    assert world.row(pending.id).status == "succeeded"
    effects = ["asleep/before", "asleep/after", "joins/0", "joins/1", "joins/after"]
    assert world.marks() == dict.fromkeys([*effects, "pending", "delayed"], 1)


def test_children_follow_whatever_their_own_job(world: World) -> None:
    live(world, Side.SERVERLESS, "mixed", "posted")
    mixed = dispatch("mixed", {"name": "n", "waitSeconds": 50})
    alone = dispatch("posted", {"name": "alone"})
    for _ in range(2):
        queue, parcel = next(o for o in world.due() if o[1].message.run_id == mixed.id)
        queue.deliver(parcel)
    assert {r.backend for r in world.rows() if r.parent_id == mixed.id} == {"qstash"}
    drained = drain(world, Side.RQ, "mixed", running=True)
    assert (dict(drained.moved), counts(drained)) == ({"mixed": 1, "posted": 2}, (3, 0, 0))
    assert world.row(alone.id).backend == "qstash"
    assert counts(drain(world, Side.SERVERLESS, "mixed")) == (3, 0, 0)
    assert {r.backend for r in world.rows() if r.parent_id == mixed.id} == {"qstash"}
    world.finish()
    assert world.row(mixed.id).status == "succeeded"
    assert set(world.marks().values()) == {1}


def test_a_run_whose_holder_has_died_moves_as_it_is_taken_over(world: World) -> None:
    live(world, Side.SERVERLESS, "five-steps")
    run = dispatch("five-steps", {"name": "n"})
    ((queue, parcel),) = world.due()
    with dying_at(2), pytest.raises(Dead):
        queue.deliver(parcel)
    assert counts(drain(world, Side.RQ, running=True)) == (0, 1, 1)
    world.time.pass_(11)
    assert world.sweep().taken_over == 1
    [moved] = world.runtime.db.rows(select(HandoffRow.__table__))
    assert (moved.run_id, moved.from_backend, moved.to_backend) == (run.id, "inngest", "rq")


def test_runs_of_unknown_jobs_are_counted_and_left(world: World) -> None:
    live(world, Side.SERVERLESS, "child")
    known, unknown = (dispatch("child", {"name": name}) for name in ("known", "unknown"))
    renamed = update(RunRow).where(RunRow.id == unknown.id).values(job="from-the-future")
    with world.runtime.db.begin() as connection:
        connection.execute(renamed)
    drained = drain(world, Side.RQ, running=True)
    assert (drained.moved, drained.left) == ({"child": 1}, {"from-the-future": 1})
    assert world.row(known.id).backend == "rq"
    assert world.row(unknown.id).backend == "inngest"


def test_rolling_back_is_flip_and_drain_and_a_look_for_who_came_late(world: World) -> None:
    live(world, Side.SERVERLESS, "child", "sleeper")
    early = dispatch("child", {"name": "early"}, delay=60)
    other = dispatch("sleeper", {"name": "other"})
    late: list[str] = []

    class Late(Stop):
        def wait(self, seconds: float) -> bool:
            if self.looks > 2 and not late:  # decided before the flip, recorded after the drain
                decide_by(Fixed("inngest"))
                late.append(dispatch("child", {"name": "late"}).id)
                world.install()
            return super().wait(seconds)

    stop: Any = Late(world)
    work = Drain(world.runtime, "child", Side.RQ, True, 0.0, stop)
    assert counts(rollback(["child"], work, By("ana", "2 a.m."))) == (2, 0, 0)
    assert {world.row(run).backend for run in (early.id, *late)} == {"rq"}
    assert world.row(other.id).backend == "inngest"
    (change, *_) = audit.history(world.runtime.db, job="child", act="stage")
    assert (change["from"], change["to"], change["by"]) == ("live", "legacy", "ana")
    # Once more: nothing to flip, nothing to move.
    assert counts(rollback(["child"], work, By("ana", "2 a.m."))) == (0, 0, 0)
    assert len(audit.history(world.runtime.db, job="child", act="stage")) == 2
    assert dispatch("child", {"name": "new"}).backend == "rq"


def cutover(environ: dict[str, str], *args: str, code: int, **more: str) -> Any:
    command = ["-m", "flask", "--app", "app", "cutover", *args]
    done = forked(command, environ | more)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_killed_half_way_and_run_again_while_workers_run(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """The second drain moves exactly those runs that the first one did not."""
    environ = environment(database_url, redis_url, INNGEST_DEV="http://127.0.0.1:1")
    runtime = fresh(environ)
    with ExitStack() as stack:
        stack.callback(runtime.db.dispose)
        on = OneSide("inngest", runtime, environ)
        quick = on.dispatch_many("five-steps", [{"name": f"q{i}"} for i in range(20)])
        slow = on.dispatch_many("child", [{"name": f"s{i}"} for i in range(20)])
        stack.enter_context(rq_worker(environ, tmp_path / "worker.log"))
        stack.enter_context(relaying(runtime))
        args = ("drain", "--all", "--to", "rq", "--running", "--json")
        cutover(environ, *args, code=-9, SWITCHYARD_CRASH_AT="handover.committed")
        said = cutover(environ, *args, code=0)
        assert (said["moved"], said["asked"], said["left"]) == (20, 0, 0)
        assert [job["left"] for job in said["jobs"]] == [0]
        rows = on.finish(*quick, *slow)
        assert {(row.backend, row.status) for row in rows} == {("rq", "succeeded")}
        expected = {f"q{i}/{n}": 1 for i in range(20) for n in range(1, 6)}
        assert on.marks("q") == expected
        assert on.marks("s") == {f"s{i}": 1 for i in range(20)}


def test_the_command_says_what_is_left_and_refuses_nonsense(redis_url: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    environ = environment(url, redis_url, INNGEST_DEV="http://127.0.0.1:1")
    runtime = fresh(environ)
    on = OneSide("inngest", runtime, environ)
    run, held = (on.dispatch("child", {"name": name}) for name in "ab")
    running = {"status": "running", "check_at": utcnow() + timedelta(hours=1)}
    with runtime.db.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == held.id).values(running))
    cli = Cli(build(load(environ)))
    said = cli.json("cutover", "drain", "child", "--to", "rq", "--running", code=1)
    job = {"name": "child", "moved": 1, "asked": 1, "left": 1, "known": True}
    assert said["jobs"] == [job]
    assert (said["moved"], said["asked"], said["left"]) == (1, 1, 1)
    assert on.row(run.id).backend == "rq"
    assert (on.row(held.id).backend, on.row(held.id).move_to) == ("inngest", "rq")
    said = cli.json("cutover", "rollback", "--all", "--why", "x", "--wait", "0", code=1)
    assert (said["moved"], said["asked"], said["left"]) == (0, 0, 1)
    assert "inngest: " in cli("cutover", "drain", "child", "--to", "serverless").stderr
    assert on.row(run.id).backend == "rq"
    # Nothing is to be brought to who is not there.
    assert cli.json("cutover", "drain", "noop", "--to", "serverless")["moved"] == 0
    for args in (
        ("drain", "--to", "rq"),
        ("drain", "child", "--all", "--to", "rq"),
        ("drain", "child"),
        ("drain", "nobody", "--to", "rq"),
        ("drain", "child", "--to", "mars"),
        ("rollback", "child"),
        ("rollback", "child", "--why", " "),
    ):
        assert cli("cutover", *args).exit_code == 2, args
    cli.runtime.db.dispose()
    runtime.db.dispose()


def test_it_ends_after_the_chunk_in_hand(world: World) -> None:
    live(world, Side.SERVERLESS, "child")
    for number in range(450):
        dispatch("child", {"name": f"n{number}"})
    stop = threading.Event()
    seen: list[tuple[int, int]] = []

    def progress(done: int, of: int) -> None:
        seen.append((done, of))
        stop.set()

    drained = Drain(world.runtime, None, Side.RQ, True, 60.0, stop, progress)()
    assert (seen, counts(drained)) == ([(200, 450)], (200, 0, 250))
    assert counts(drain(world, Side.RQ)) == (250, 0, 0)

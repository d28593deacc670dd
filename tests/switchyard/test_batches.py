"""A worker that pops several runs at once: none is lost, held up, or taken out of turn by that."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from sqlalchemy.exc import OperationalError

from queues import batches, task
from queues.backend import registered_workers
from tests.support import old_tasks
from tests.support.sides import Side, no_worker, relaying, rq_worker
from tests.support.waiting import PATIENCE_SECONDS, until

AT = "tests.support.old_tasks"
QUICK = batches.MOST * 2
"""So many quick runs, and a worker pops as many at once as it ever does."""


@pytest.fixture
def on(redis_url: str, tmp_path: Path) -> Iterator[Side]:
    with no_worker(redis_url, tmp_path, LEGACY_FUNCTIONS=f"{AT}.*") as on:
        yield on


def dispatch(on: Side, n: str, *waits: float) -> list[str]:
    """Dispatch quick runs, one of each wait, and quick ones again; return the ids of the last."""
    for i in range(QUICK):
        on.dispatch("noop", {"name": f"{n}/{i}"})
    for i, wait in enumerate(waits):
        on.dispatch("slow", {"name": f"{n}/slow/{i}", "waitSeconds": wait})
    return [on.dispatch("child", {"name": f"{n}/after/{i}"}).id for i in range(10)]


def test_a_long_run_holds_up_none_behind_it(on: Side, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        after = dispatch(on, n, 60.0)
        stack.enter_context(rq_worker(on.environ, tmp_path / "one.log"))
        until(lambda: on.touches(f"{n}/slow/0"))
        # It has the long one in hand, and nobody but the worker itself gives back what it popped.
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        until(lambda: all(on.row(run_id).status == "succeeded" for run_id in after))
        assert {on.row(run_id).losses for run_id in after} == {0}
    assert on.marks(f"{n}/after") == {f"{n}/after/{i}": 1 for i in range(10)}


def test_what_was_popped_outlives_a_worker_that_is_killed(on: Side, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        after = dispatch(on, n, 0.2, 0.2, 0.2)
        worker = stack.enter_context(rq_worker(on.environ, tmp_path / "one.log"))
        until(lambda: on.touches(f"{n}/slow/0"))
        worker.kill()
        stack.enter_context(relaying(on.runtime))
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        until(lambda: all(on.row(run_id).status == "succeeded" for run_id in after))
    assert on.marks(f"{n}/after") == {f"{n}/after/{i}": 1 for i in range(10)}


def test_one_that_stops_gives_back_what_it_popped(on: Side, redis: Redis, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        after = dispatch(on, n, 1.0)
        worker = stack.enter_context(rq_worker(on.environ, tmp_path / "one.log"))
        until(lambda: on.touches(f"{n}/slow/0"))
        assert [one.ours for one in registered_workers(redis)] == [True]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_SECONDS) == 0
        assert registered_workers(redis) == []
        assert {on.row(run_id).status for run_id in after} <= {"pending", "waiting"}
        # Each is where a worker finds it, without a relay.
        jobs: Any = redis.lrange("rq:queue:tests", 0, -1)
        assert set(after) <= {job_id.decode().partition("-")[0] for job_id in jobs}
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        until(lambda: all(on.row(run_id).status == "succeeded" for run_id in after))
    assert on.marks(f"{n}/after") == {f"{n}/after/{i}": 1 for i in range(10)}


def test_an_old_job_among_them_has_its_turn(on: Side, redis: Redis, tmp_path: Path) -> None:
    queue = Queue("tests", connection=redis, serializer=JSONSerializer)
    runs, jobs = [], []
    for _ in range(10):
        runs += [on.dispatch("noop", {"name": uuid4().hex}) for _ in range(5)]
        jobs.append(queue.enqueue(old_tasks.add, 1))
    with rq_worker(on.environ, tmp_path / "worker.log"):
        until(lambda: jobs[-1].is_finished)
        assert all(job.is_finished for job in jobs)
        assert {row.status for row in on.finish(*runs)} == {"succeeded"}
        assert redis.keys("rq:job:*-1") == []


def test_without_the_database_it_does_not_empty_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("no database"))

    engine = SimpleNamespace(claim=gone, store=SimpleNamespace(clock=lambda: None))
    monkeypatch.setattr(batches, "process_runtime", lambda: SimpleNamespace(engine=engine))
    waits: list[float] = []
    monkeypatch.setattr(task, "stopping", SimpleNamespace(wait=waits.append, is_set=bool))
    script = SimpleNamespace(register_script=lambda _: None)
    assert batches.Batches(SimpleNamespace(connection=script)).work(("a", 1)) == 0
    assert waits == [batches.LOST_SECONDS]


def popping(redis: Redis, queue: str = "tests") -> batches.Batches:
    """Returns the part of a worker that pops runs from the queue."""
    worker = SimpleNamespace(connection=redis, _ordered_queues=[Queue(queue, connection=redis)])
    worker.reorder_queues = lambda reference_queue: None
    made = batches.Batches(worker)
    made._size = batches.MOST
    return made


def push(redis: Redis, run: str, epoch: str) -> None:
    call = f'["queues.task.perform", null, ["{run}", {epoch}], {{}}]'
    redis.hset(f"rq:job:{run}-{epoch}", "data", call)
    redis.rpush("rq:queue:tests", f"{run}-{epoch}")


def test_suspended_it_pops_nothing(redis: Redis) -> None:
    redis.flushall()
    push(redis, "a", "1")
    suspend(redis)
    assert popping(redis)._more() == []
    resume(redis)
    assert popping(redis)._more() == [("a", 1)]


def test_why_runs_are_popped_one_by_one_is_logged_without_the_script(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.flushall()
    redis.set("rq:queue:odd", "junk")
    assert popping(redis, "odd")._more() == []
    (logged,) = [r for r in caplog.records if "one by one" in r.getMessage()]
    assert logged.__dict__["reason"].endswith("holding the wrong kind of value")


def test_what_no_run_can_be_is_left_to_rq(redis: Redis) -> None:
    """One such job would lose all runs that were popped with it."""
    redis.flushall()
    for run, epoch in (("a", "1"), ("b", "9" * 5000), ("c", "1")):
        push(redis, run, epoch)
    assert popping(redis)._more() == [("a", 1)]
    assert redis.llen("rq:queue:tests") == 2

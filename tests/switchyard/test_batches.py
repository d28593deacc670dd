"""A worker that pops several runs at once: none is lost, held up, or taken out of turn by that."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from flask import Flask
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from sqlalchemy.exc import OperationalError

from queues import batches, task
from tests.support import old_tasks
from tests.support.sides import Side, no_worker, relaying, rq_worker
from tests.support.waiting import until

AT = "tests.support.old_tasks"


@pytest.fixture
def on(redis_url: str, tmp_path: Path) -> Iterator[Side]:
    with no_worker(redis_url, tmp_path, LEGACY_FUNCTIONS=f"{AT}.*") as on:
        yield on


def popping(redis: Redis, queue: str = "tests") -> batches.Batches:
    """Returns the part of a worker that pops runs from the queue, and performs them."""
    made = batches.Batches(
        SimpleNamespace(
            connection=redis,
            _ordered_queues=[Queue(queue, connection=redis)],
            reorder_queues=lambda reference_queue: None,
            death_penalty_class=lambda *_: nullcontext(),
            heartbeat=lambda _seconds: None,
        )
    )
    made._size = batches.MOST
    return made


@pytest.fixture
def here(on: Side, monkeypatch: pytest.MonkeyPatch) -> Side:
    """The side, whose runs are performed in this process."""
    monkeypatch.setattr(batches, "process_runtime", lambda: on.runtime)
    monkeypatch.setattr(batches, "load_app", lambda: Flask("worker"))
    return on


def test_a_long_run_holds_up_none_behind_it(here: Side, redis: Redis, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    long = here.dispatch("gated", {"name": str(gate)})
    behind = [here.dispatch("child", {"name": f"n{i}"}) for i in range(3)]
    worker, another = popping(redis), popping(redis)
    popped = worker._more()
    assert [run_id for run_id, _ in popped] == [run.id for run in (long, *behind)]
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker._do, popped)
        try:
            done = 0
            while done < len(behind):
                done += another._do(until(another._more))
            rows = [here.row(run.id) for run in behind]
            assert {(row.status, row.losses) for row in rows} == {("succeeded", 0)}
            assert here.row(long.id).status == "running"
        finally:
            gate.touch()
        assert working.result() == 1
    assert here.marks("n") == {f"n{i}": 1 for i in range(3)}


def test_one_that_stops_gives_back_what_it_popped(
    here: Side, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = [here.dispatch("child", {"name": f"n{i}"}).id for i in range(3)]
    worker = popping(redis)
    popped = worker._more()
    stops = SimpleNamespace(is_set=lambda: here.row(first).status == "succeeded")
    monkeypatch.setattr(task, "stopping", stops)
    assert worker._do(popped) == 1
    assert {here.row(run_id).status for run_id in others} <= {"pending", "waiting"}
    # Each is where a worker finds it, without a relay.
    assert sorted(run_id for run_id, _ in popping(redis)._more()) == sorted(others)


def test_after_a_while_it_is_the_turn_of_rq(
    here: Side, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TURN_SECONDS", 0.0)
    for i in range(2):
        here.dispatch("noop", {"name": f"n{i}"})
    worker = popping(redis)
    worker._size = 1
    [first] = worker._more()
    assert worker.work(first) == 1
    assert redis.llen("rq:queue:tests") == 1


def test_what_was_popped_outlives_a_worker_that_is_killed(on: Side, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        for i in range(2 * batches.MOST):  # then it pops as many at once as it ever does
            on.dispatch("noop", {"name": f"{n}/{i}"})
        for i in range(3):
            on.dispatch("slow", {"name": f"{n}/slow/{i}", "waitSeconds": 0.2})
        after = [on.dispatch("child", {"name": f"{n}/after/{i}"}) for i in range(10)]
        worker = stack.enter_context(rq_worker(on.environ, tmp_path / "one.log"))
        until(lambda: on.touches(f"{n}/slow/0"))
        worker.kill()
        stack.enter_context(relaying(on.runtime))
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        assert {row.status for row in on.finish(*after)} == {"succeeded"}
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

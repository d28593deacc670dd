"""A plain rq worker: what it may lose, how it stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Gone
from rq import SimpleWorker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import DefaultSerializer, JSONSerializer

from app.switchyard.errors import BackendUnavailable, SettingsError
from app.switchyard.runs.relay import sweep
from queues import task, worker
from queues.allowed import WorkerJob
from queues.backend import connect
from queues.versions import StopRequested
from queues.worker import Scheduler, Worker
from tests.proof.servers import Valkey
from tests.support.sides import Side, no_worker, relaying, rq_worker
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.world import Time
from tests.switchyard.test_health import valkey


def _without_the_app() -> Any:
    raise SettingsError("FLASK_APP is not set, where the old worker is")


@pytest.fixture
def on(redis_url: str, tmp_path: Path) -> Iterator[Side]:
    with no_worker(redis_url, tmp_path) as on:
        yield on


def test_a_backlog_is_not_sent_again(on: Side, redis_url: str) -> None:
    """What still waits in its queue is left there, however long it takes."""
    redis: Redis = connect(redis_url)
    runs = [on.dispatch("noop", {"name": str(i)}) for i in range(10)]
    at = Time(on.runtime.store.clock())
    for _ in range(3):
        at.pass_(3600)
        swept = sweep(replace(on.runtime.store, clock=at))
        assert (swept.sent, swept.queued) == (0, 10)
    assert redis.llen("rq:queue:tests") == 10
    assert {on.row(run.id).epoch for run in runs} == {1}


@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer], ids=["pickle", "json"])
def test_an_old_worker_neither_eats_runs_nor_fails_them(
    on: Side, redis_url: str, tmp_path: Path, serializer: Any
) -> None:
    """It takes each one's message and fails it, or cannot be the app's worker: a worker of ours
    has it when the relay sends it again."""
    n = uuid4().hex
    redis = connect(redis_url)
    runs = [on.dispatch("child", {"name": f"{n}/{i}"}) for i in range(5)]
    old = SimpleWorker(["tests"], connection=redis, serializer=serializer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "load_app", _without_the_app)
        for _ in range(2):
            old.work(burst=True, logging_level="CRITICAL")
            assert redis.llen("rq:queue:tests") == 0
            assert {on.row(run.id).status for run in runs} == {"pending"}
            until(lambda: sweep(on.runtime.store) and redis.llen("rq:queue:tests") == len(runs))
    with relaying(on.runtime), rq_worker(on.environ, tmp_path / "worker.log"):
        rows = on.finish(*runs)
    assert {(row.status, row.attempt) for row in rows} == {("succeeded", 1)}
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(5)}
    assert FailedJobRegistry("tests", connection=redis).get_job_ids() == []


REFUSES: dict[str, tuple[str, str, str]] = {
    "its memory is full": ("CONFIG SET maxmemory {}", "1", "0"),
    "it has too few replicas": ("CONFIG SET min-replicas-to-write {}", "1", "0"),
    "it is a replica": ("REPLICAOF {}", "127.0.0.1 1", "NO ONE"),
}


@pytest.mark.parametrize("why", REFUSES)
def test_a_redis_that_refuses_to_write_is_waited_for(tmp_path: Path, why: str) -> None:
    """It answers as one whose disk is full: it is no queue, and ends no worker (R8)."""
    n, log = uuid4().hex, tmp_path / "worker.log"
    command, refuses, allows = REFUSES[why]
    with ExitStack() as stack:
        url = f"redis://127.0.0.1:{stack.enter_context(valkey(tmp_path))}"
        on = stack.enter_context(no_worker(url, tmp_path))
        stack.enter_context(relaying(on.runtime))
        worker = stack.enter_context(rq_worker(on.environ, log))
        on.finish(on.dispatch("child", {"name": n}))
        redis: Any = connect(url)
        redis.execute_command(*command.format(refuses).split())
        redis.client_kill_filter(_type="normal", skipme=True)  # it waits, and is to ask again
        run = on.dispatch("child", {"name": f"{n}/meanwhile"})
        with pytest.raises(BackendUnavailable, match="redis: "):
            on.runtime.store.backends["rq"].ping()
        with pytest.raises(SystemExit, match="switchyard: REDIS_URL: redis: "):
            Worker(["tests"], connection=redis)
        until(lambda: "Redis refuses" in log.read_text())
        assert on.row(run.id).status == "pending"
        redis.execute_command(*command.format(allows).split())
        on.finish(run)
        assert worker.poll() is None


def test_a_redis_that_is_killed_ends_no_worker_at_work(tmp_path: Path) -> None:
    n, log = uuid4().hex, tmp_path / "worker.log"
    with ExitStack() as stack:
        server = Valkey(tmp_path)
        stack.callback(lambda: server.kill())
        on = stack.enter_context(no_worker(server.url, tmp_path))
        stack.enter_context(relaying(on.runtime))
        runs = [on.dispatch("child", {"name": f"{n}/{i}"}) for i in range(200)]
        worker = stack.enter_context(rq_worker(on.environ, log))
        until(lambda: on.marks(n))
        server.kill()
        until(lambda: "edis" in log.read_text())
        server.start()
        on.finish(*runs)
        assert worker.poll() is None
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(200)}


def test_a_scheduler_asks_for_its_locks_again_where_they_may_have_run_out(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before RQ 3.0 it would share them with another, and both would send what is due."""
    held: list[set[str]] = []

    def rounds(scheduler: Scheduler) -> None:
        held.append(set(scheduler.acquired_locks))
        if len(held) == 2:  # Redis has been gone for as long as they last
            monkeypatch.setattr(worker, "LOCKED_SECONDS", 0.0)
        if len(held) < 3:
            raise Gone
        assert scheduler.should_reacquire_locks

    monkeypatch.setattr(RQScheduler, "work", rounds)
    monkeypatch.setattr(worker, "REFUSED_SECONDS", 0.01)
    scheduler = Scheduler(["tests"], connection=connect(redis_url))
    scheduler.acquire_locks()  # type: ignore[no-untyped-call]
    scheduler.start().join(PATIENCE_SECONDS)
    assert held == [{"tests"}, {"tests"}, set()]
    scheduler.release_locks()  # type: ignore[no-untyped-call]


def test_sigterm_ends_at_the_next_step_boundary(on: Side, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        worker = stack.enter_context(rq_worker(on.environ, tmp_path / "one.log"))
        run = on.dispatch("slow", {"name": n, "waitSeconds": 1.0})
        until(lambda: on.touches(n))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_SECONDS) == 0
        assert on.row(run.id).status == "waiting"
        assert on.marks(n) == {n: 1}
        stack.enter_context(relaying(on.runtime))
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        on.finish(run)
    assert on.touches(n) == 1
    assert on.marks(n) == {n: 1, f"{n}/after": 1}


def test_a_zombie_that_finishes_late_changes_nothing(on: Side, tmp_path: Path) -> None:
    """It is stopped for longer than its lease, its run is taken over, and then it goes on."""
    n = uuid4().hex
    with ExitStack() as stack:
        zombie = stack.enter_context(rq_worker(on.environ, tmp_path / "zombie.log"))
        run = on.dispatch("slow", {"name": n, "waitSeconds": 2.0})
        until(lambda: on.touches(n))
        zombie.send_signal(signal.SIGSTOP)
        stack.enter_context(relaying(on.runtime))
        stack.enter_context(rq_worker(on.environ, tmp_path / "two.log"))
        (row,) = on.finish(run)
        zombie.send_signal(signal.SIGCONT)
        zombie.send_signal(signal.SIGTERM)  # it ends its step first
        assert zombie.wait(PATIENCE_SECONDS) == 0
        assert on.row(run.id) == row
    assert on.touches(n) == 2
    assert on.marks(n) == {n: 1, f"{n}/after": 1}


def test_a_stop_while_a_job_is_read_is_not_taken_for_a_bad_field(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = iter([StopRequested()])

    def read(*_: Any) -> None:
        for signalled in signals:
            raise signalled

    job = WorkerJob("one", connection=redis)
    monkeypatch.setattr(Job, "restore", read)
    with pytest.raises(StopRequested):
        job.restore({b"data": b"[]"})

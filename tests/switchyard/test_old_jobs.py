"""What was in Redis before: worked off by the Procfile's worker as far as the settings allow."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from app.platform.config import load
from app.switchyard.errors import SettingsError
from tests.support import old_tasks
from tests.support.forks import Forked
from tests.support.sides import WORKER, Side, no_worker, rq_worker
from tests.support.waiting import PATIENCE_SECONDS, until

AT = "tests.support.old_tasks"


@pytest.fixture
def on(redis_url: str, tmp_path: Path) -> Iterator[Side]:
    also = {"LEGACY_FUNCTIONS": f"{AT}.*", "LEGACY_QUEUES": "old, older"}
    with no_worker(redis_url, tmp_path, **also) as on:
        yield on


def ended(job: Job) -> JobStatus:
    done = (JobStatus.FINISHED, JobStatus.FAILED)
    until(lambda: job.get_status() in done, job.get_status, every_seconds=0.05)
    return job.get_status()


def error(job: Job) -> str:
    result = job.latest_result()
    assert result is not None
    return result.exc_string or ""


@pytest.mark.parametrize("pickled", [False, True])
def test_old_jobs_are_done_as_ever(on: Side, redis: Redis, tmp_path: Path, pickled: bool) -> None:
    queue = Queue("old", connection=redis, serializer=None if pickled else JSONSerializer)
    trace = str(tmp_path / "trace")
    plain = queue.enqueue(old_tasks.add, 2, y=3)
    retried = queue.enqueue(old_tasks.fail, trace, 1, retry=Retry(max=2, interval=1))
    timed = queue.enqueue(old_tasks.nap, 30, job_timeout=1)
    crashed = queue.enqueue(old_tasks.die)
    called = queue.enqueue(
        old_tasks.add, 1, on_success=Callback(old_tasks.succeeded), meta={"who": "me"}
    )
    wrong = queue.enqueue(old_tasks.fail, on_failure=Callback(f"{AT}.failed"))
    after = queue.enqueue(old_tasks.add, 10, depends_on=called)
    later = queue.enqueue_in(timedelta(seconds=1), old_tasks.add, 20)
    static = queue.enqueue(old_tasks.Till.twice, 3)
    till = old_tasks.Till(trace)
    if pickled:
        passed = queue.enqueue(old_tasks.ring, till, "ding")
        method = queue.enqueue(till.ring, "dong")
        of_class = queue.enqueue(till.count, 1)
    environ = {**on.environ, "LEGACY_PICKLE": "true"} if pickled else on.environ
    with rq_worker(environ, tmp_path / "worker.log") as worker:
        finished = {plain: 5, retried: "at last", after: 11, later: 21, static: 6}
        for job, result in finished.items():
            assert ended(job) == JobStatus.FINISHED
            assert job.return_value() == result
        for job, why in (
            (timed, "JobTimeoutException"),
            (crashed, "Work-horse terminated"),
            (wrong, "on purpose"),
        ):
            assert ended(job) == JobStatus.FAILED
            assert why in error(job)
        assert redis.lrange("called", 0, -1) == [b"success 2", b"failure RuntimeError on purpose"]
        assert called.get_meta() == {"who": "me"}
        if pickled:
            assert [ended(job) for job in (passed, method, of_class)] == [JobStatus.FINISHED] * 3
            assert old_tasks.lines(tmp_path / "trace")[-2:] == ["ding", "dong"]
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_SECONDS)


def test_a_work_horse_shares_no_connection_with_its_worker(
    on: Side, redis: Redis, tmp_path: Path
) -> None:
    """The worker performs runs itself, and so has open connections of the app's own."""
    run = on.dispatch("connected", {})
    queue = Queue("old", connection=redis, serializer=JSONSerializer)
    with rq_worker(on.environ, tmp_path / "worker.log"):
        (done,) = on.finish(run)
        assert done.result == '"its own"'
        horse = queue.enqueue(old_tasks.connected)
        assert ended(horse) == JobStatus.FINISHED
        assert horse.return_value() == "its own"


def test_a_pickle_that_was_refused_is_requeued_once_it_is_allowed(
    on: Side, redis: Redis, tmp_path: Path
) -> None:
    pickled = Queue("older", connection=redis).enqueue(old_tasks.add, 1)
    with rq_worker(on.environ, tmp_path / "worker.log"):
        assert ended(pickled) == JobStatus.FAILED
    assert "LEGACY_PICKLE" in error(pickled)
    pickled.requeue()
    with rq_worker({**on.environ, "LEGACY_PICKLE": "true"}, tmp_path / "worker.log"):
        assert ended(pickled) == JobStatus.FINISHED


HASTY = """
import queues.worker
from rq.cli.cli import main
queues.worker.STOP_SECONDS = 0.5
main()
"""


def test_a_worker_asked_to_stop_waits_for_an_old_job(
    on: Side, redis: Redis, tmp_path: Path
) -> None:
    """It waits for it longer than for a run's step, whose run others go on with."""
    queue = Queue("old", connection=redis, serializer=JSONSerializer)
    trace = tmp_path / "trace"
    job = queue.enqueue(old_tasks.nap, 1.5, str(trace))
    log = (tmp_path / "worker.log").open("wb")
    with log, Forked(["-c", HASTY, *WORKER[2:]], env=on.environ, stdout=log, stderr=log) as worker:
        until(lambda: old_tasks.lines(trace))
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(PATIENCE_SECONDS)
    assert job.get_status() == JobStatus.FINISHED
    assert old_tasks.lines(trace) == ["begun", "done"]


@pytest.mark.parametrize("bad", ["*", "shop", "shop.*.pay", "shop..pay", "shop.tasks.", "os; ls"])
def test_legacy_functions_are_checked(bad: str) -> None:
    with pytest.raises(SettingsError, match="LEGACY_FUNCTIONS: must be dotted paths"):
        load({"LEGACY_FUNCTIONS": f"shop.tasks.pay, {bad}"})
    assert load({"LEGACY_FUNCTIONS": "shop.tasks.pay, shop.mail.*"}).legacy_functions

"""What RQ's documentation promises of Queue, job and Job, asked of rq's own and of the drop-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rq
from redis import Redis
from rq import Callback, Retry, SimpleWorker, decorators
from rq.exceptions import NoSuchJobError
from rq.job import Dependency, Job, JobStatus
from rq.serializers import JSONSerializer

import queues
from app.switchyard.runs.memory import MemoryBackend
from queues.backend import connect
from queues.versions import DuplicateJobError
from tests.support import old_tasks
from tests.support.rq_since import has, of_rq, since
from tests.support.sides import ledger

AT = "tests.support.old_tasks"
Repeat = of_rq("rq", "Repeat")
RateLimit = of_rq("rq.rate_limit", "RateLimit")


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The layer as it is installed: with a ledger of its own, in which it looks for a job's id."""
    url = f"sqlite:///{tmp_path_factory.mktemp('promises') / 'test.db'}"
    with ledger(url, MemoryBackend()):
        yield


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    connection = connect(redis_url)
    connection.flushall()
    yield connection
    connection.close()


@pytest.fixture(params=[rq.Queue, queues.Queue], ids=["rq", "ours"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def queue(kind: Any, redis: Redis) -> Any:
    return kind("old", connection=redis)


def work(redis: Redis, name: str = "old", serializer: Any = None) -> None:
    worker = SimpleWorker([rq.Queue(name, connection=redis)], connection=redis)
    if serializer is not None:
        worker = SimpleWorker([name], connection=redis, serializer=serializer)
    worker.work(burst=True, with_scheduler=False, logging_level="ERROR")


def test_enqueue_gives_a_job_that_a_worker_does(queue: Any, redis: Redis) -> None:
    job = queue.enqueue(old_tasks.add, 2, y=3)
    assert type(job) is Job
    assert (job.func_name, job.args, job.kwargs) == (f"{AT}.add", (2,), {"y": 3})
    assert (job.origin, job.timeout, job.get_status()) == ("old", 180, JobStatus.QUEUED)
    assert queue.job_ids == [job.id]
    assert queue.fetch_job(job.id) == job
    work(redis)
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == 5


def test_options_are_kept(queue: Any) -> None:
    job = queue.enqueue(
        f"{AT}.add",
        args=(1,),
        kwargs={"y": 2},
        job_timeout="1h",
        result_ttl=7,
        failure_ttl=8,
        ttl=9,
        description="adds",
        job_id="my-id",
        meta={"who": "me"},
        retry=Retry(max=3, interval=[1, 2]),
    )
    kept = Job.fetch("my-id", connection=queue.connection)
    for seen in (job, kept):
        assert (seen.timeout, seen.result_ttl, seen.failure_ttl, seen.ttl) == (3600, 7, 8, 9)
        assert (seen.description, seen.meta) == ("adds", {"who": "me"})
        assert (seen.retries_left, seen.retry_intervals) == (3, [1, 2])


def test_enqueue_call_and_at_front(queue: Any) -> None:
    first = queue.enqueue_call(old_tasks.add, args=(1,), timeout=5)
    front = queue.enqueue_call("os.getcwd", at_front=True)
    assert queue.job_ids == [front.id, first.id]
    assert first.timeout == 5


def test_a_job_id_is_no_key(queue: Any) -> None:
    """Three enqueues of one job_id are three executions."""
    for _ in range(3):
        queue.enqueue("builtins.int", job_id="same")
    assert queue.job_ids == ["same"] * 3


@since("2.8")
def test_unique(queue: Any) -> None:
    queue.enqueue(old_tasks.add, 1, job_id="once", unique=True)
    with pytest.raises(DuplicateJobError):
        queue.enqueue(old_tasks.add, 1, job_id="once", unique=True)
    with pytest.raises(ValueError, match="explicit job_id"):
        queue.enqueue(old_tasks.add, 1, unique=True)
    assert queue.job_ids == ["once"]


def test_later(queue: Any) -> None:
    soon = queue.enqueue_in(timedelta(hours=1), old_tasks.add, 1)
    then = datetime(2031, 5, 6, tzinfo=UTC)
    at = queue.enqueue_at(then, old_tasks.add, 1, job_id="then", meta={"a": 1})
    assert soon.get_status() == at.get_status() == JobStatus.SCHEDULED
    assert queue.job_ids == []
    registry = queue.scheduled_job_registry
    assert set(registry.get_job_ids()) == {soon.id, "then"}
    assert registry.get_scheduled_time("then") == then


def test_many(queue: Any, redis: Redis) -> None:
    jobs = queue.enqueue_many(
        [
            queue.prepare_data(old_tasks.add, args=(1,), job_id="a"),
            queue.prepare_data(old_tasks.add, kwargs={"x": 2}, job_id="b", at_front=True),
            queue.prepare_data(old_tasks.add, (3, 3), job_id="c", meta={"m": 1}, timeout=9),
        ],
        **({"group_id": None} if has("2.0") else {}),
    )
    assert [job.id for job in jobs] == ["a", "b", "c"]
    assert queue.job_ids == ["b", "a", "c"]
    work(redis)
    assert [job.return_value() for job in jobs] == [2, 3, 6]
    if has("3.0"):
        twice = [queue.prepare_data(old_tasks.add, (1,), job_id="x")] * 2
        with pytest.raises(ValueError, match="more than once"):
            queue.enqueue_many(twice)
    assert queue.job_ids == []
    assert len(queue.enqueue_many(queue.prepare_data(old_tasks.add, (n,)) for n in range(3))) == 3


def test_a_callers_pipeline(queue: Any, redis: Redis) -> None:
    with redis.pipeline() as pipe:
        queue.enqueue(old_tasks.add, 1, pipeline=pipe, job_id="p")
        queue.enqueue_many([queue.prepare_data(old_tasks.add, (1,), job_id="q")], pipeline=pipe)
        assert not Job.exists("p", redis)
        assert queue.job_ids == []
        pipe.execute()
    assert queue.job_ids == ["p", "q"]


def test_dependencies(queue: Any, redis: Redis) -> None:
    first = queue.enqueue(old_tasks.add, 1)
    second = queue.enqueue(old_tasks.add, 2, depends_on=first)
    third = queue.enqueue(old_tasks.add, 3, depends_on=[first.id, second])
    bad = queue.enqueue(old_tasks.fail)
    never = queue.enqueue(old_tasks.add, 4, depends_on=bad)
    even_so = queue.enqueue(old_tasks.add, 5, depends_on=Dependency(bad, allow_failure=True))
    assert second.get_status() == third.get_status() == JobStatus.DEFERRED
    assert set(queue.deferred_job_registry.get_job_ids()) == {
        job.id for job in (second, third, never, even_so)
    }
    work(redis)
    assert [job.return_value() for job in (first, second, third, even_so)] == [2, 3, 4, 6]
    assert never.get_status() == JobStatus.DEFERRED


def test_callbacks(queue: Any, redis: Redis) -> None:
    on = {
        "on_success": Callback(old_tasks.succeeded),
        "on_failure": Callback(f"{AT}.failed", timeout=9),
    }
    queue.enqueue(old_tasks.add, 1, **on)
    bad = queue.enqueue(old_tasks.fail, **on)
    assert bad.failure_callback_timeout == 9
    work(redis)
    assert redis.lrange("called", 0, -1) == [b"success 2", b"failure RuntimeError on purpose"]


def test_retries(queue: Any, redis: Redis, tmp_path: Any) -> None:
    trace = tmp_path / "trace"
    job = queue.enqueue(old_tasks.fail, str(trace), times=2, retry=Retry(max=3))
    given_up = queue.enqueue(old_tasks.fail, str(tmp_path / "other"), retry=Retry(max=1))
    later = queue.enqueue(old_tasks.fail, retry=Retry(max=2, interval=60))
    work(redis)
    assert job.return_value() == "at last"
    assert given_up.get_status() == JobStatus.FAILED
    assert later.get_status() == JobStatus.SCHEDULED
    assert queue.failed_job_registry.get_job_ids() == [given_up.id]


@since("2.3")
def test_repeat(queue: Any, redis: Redis) -> None:
    job = queue.enqueue(old_tasks.add, 1, repeat=Repeat(times=2))
    work(redis)
    assert len(job.results()) == 3


def test_timeout(queue: Any, redis: Redis) -> None:
    job = queue.enqueue(old_tasks.nap, 30, job_timeout=1)
    work(redis)
    assert job.get_status() == JobStatus.FAILED
    assert "JobTimeoutException" in job.latest_result().exc_string


@since("3.0")
def test_rate_limit(queue: Any) -> None:
    limit = RateLimit("key", concurrency=1)
    jobs = [queue.enqueue(old_tasks.add, 1, rate_limit=limit) for _ in range(2)]
    assert [job.get_status() for job in jobs] == [JobStatus.QUEUED, JobStatus.RATE_LIMITED]


def test_synchronous(kind: Any, redis: Redis) -> None:
    job = kind("old", connection=redis, is_async=False).enqueue(old_tasks.add, 4)
    assert (job.get_status(), job.return_value()) == (JobStatus.FINISHED, 5)


def test_other_serializers_and_methods(kind: Any, redis: Redis, tmp_path: Any) -> None:
    plain = kind("json", connection=redis, serializer=JSONSerializer)
    job = plain.enqueue(old_tasks.add, 4)
    work(redis, "json", JSONSerializer)
    assert job.return_value() == 5
    till = old_tasks.Till(str(tmp_path / "till"))
    method = kind("old", connection=redis).enqueue(till.ring, "ding")
    work(redis)
    assert method.return_value() == "ding"


def test_cancel_delete_requeue(queue: Any, redis: Redis) -> None:
    job = queue.enqueue(old_tasks.add, 1)
    job.cancel()
    assert (queue.job_ids, job.get_status()) == ([], JobStatus.CANCELED)
    bad = queue.enqueue(old_tasks.fail)
    work(redis)
    bad.requeue()
    assert queue.job_ids == [bad.id]
    bad.delete()
    with pytest.raises(NoSuchJobError):
        Job.fetch(bad.id, connection=redis)
    assert queue.fetch_job(bad.id) is None


def test_refusals(queue: Any, kind: Any) -> None:
    if has("2.0"):  # before, a connection might be pushed beforehand
        with pytest.raises(TypeError):
            kind("old")
    with pytest.raises(TypeError, match="callable or a string"):
        queue.enqueue(old_tasks.Till)
    if has("2.8"):
        with pytest.raises(ValueError, match="must only contain"):
            queue.enqueue(old_tasks.add, 1, job_id="a:b")
    assert queue.job_ids == []


@pytest.mark.parametrize("make", [decorators.job, queues.job], ids=["rq", "ours"])
def test_the_decorator(make: Callable[..., Any], redis: Redis) -> None:
    made = make("old", connection=redis, timeout=5, result_ttl=6, meta={"a": 1}, description="adds")
    plain = old_tasks.add
    function: Any = made(plain)
    try:
        job = function.delay(1, y=4, job_id="mine")
        again = function.enqueue if has("2.1") else function.delay
        after = again(2, depends_on=job, at_front=True)
        assert function(1, 1) == 2
    finally:
        vars(function).clear()
    assert (job.id, job.timeout, job.result_ttl, job.meta) == ("mine", 5, 6, {"a": 1})
    assert (job.description, after.get_status()) == ("adds", JobStatus.DEFERRED)
    work(redis)
    assert [job.return_value(), after.return_value()] == [5, 3]


def test_our_queues_are_rqs(redis: Redis) -> None:
    """rq's workers and registries take ours for their own."""
    ours, theirs = queues.Queue("old", connection=redis), rq.Queue("old", connection=redis)
    assert isinstance(ours, rq.Queue)
    assert ours == theirs
    assert hash(ours) == hash(theirs)
    job = ours.enqueue(old_tasks.add, 1)
    assert rq.Queue.all(connection=redis) == [ours]
    SimpleWorker([ours], connection=redis).work(burst=True, logging_level="ERROR")
    assert job.return_value() == 2

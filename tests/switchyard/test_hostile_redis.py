"""Whatever lies in Redis: the worker acts on what it knows, fails the rest alone, and goes on."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Callback, Queue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from queues.allowed import INFLATED_BYTES, WorkerJob
from queues.backend import registered_workers
from queues.misplaced import put_aside
from tests.support import old_tasks
from tests.support.receiver import receiving
from tests.support.rq_since import has, of_rq, since
from tests.support.sides import Side, no_worker, relaying, rq_worker
from tests.support.waiting import until
from tests.switchyard.test_old_jobs import ended as status
from tests.switchyard.test_old_jobs import error

AT = "tests.support.old_tasks"
BOMB = zlib.compress(b'["' + b" " * (4 * INFLATED_BYTES) + b'", null, [], {}]')


@pytest.fixture(params=["", "old"], ids=["one queue", "two queues"])
def on(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Side]:
    """RQ takes from one queue otherwise than from two."""
    also = {"LEGACY_FUNCTIONS": f"{AT}.*", "LEGACY_QUEUES": request.param}
    with no_worker(redis_url, tmp_path, **also) as on:
        yield on


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue("tests", connection=redis, serializer=JSONSerializer)


@contextmanager
def a_worker_that_lives(on: Side, tmp_path: Path) -> Iterator[None]:
    """At the end the same process still does a run."""
    with rq_worker(on.environ, tmp_path / "worker.log") as worker:
        yield
        n = uuid4().hex
        with relaying(on.runtime):
            on.finish(on.dispatch("child", {"name": n}))
        assert on.marks(n) == {n: 1}
        assert worker.poll() is None


@pytest.mark.parametrize("on", [""], indirect=True)
def test_no_other_path_is_executed_and_no_pickle_opened(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    target = tmp_path / "touched"
    call = (f"touch {target}",)
    refused = [
        queue.enqueue(path, *call)
        for path in (
            *("os.system", "subprocess.check_output", "queues.task.load_app"),
            *(f"{AT}.system", f"{AT}.os.system", f"{AT}.job"),
            *(f"{AT}.Path.cwd", f"{AT}.Till.mro", f"{AT}.Till.ring"),
        )
    ]
    refused += [
        queue.enqueue("queues.task.perform", "no-run", 1, on_success=Callback("os.system")),
        queue.enqueue("queues.task.perform", *call, on_failure=Callback("os.system")),
        queue.enqueue(f"{AT}.add", 1, on_success=Callback("os.system")),
    ]
    pickled = Queue("tests", connection=redis).enqueue("os.mkdir", str(target))
    with a_worker_that_lives(on, tmp_path):
        for job in refused:
            assert status(job) == JobStatus.FAILED
            assert "not a declared job function" in error(job)
        assert status(pickled) == JobStatus.FAILED
    assert "LEGACY_PICKLE" in error(pickled)
    assert not target.exists()


@since("2.10")
@pytest.mark.parametrize("on", [""], indirect=True)
def test_webhooks_are_not_sent(on: Side, queue: Queue, redis: Redis, tmp_path: Path) -> None:
    webhook = of_rq("rq.webhook", "Webhook")
    with receiving() as receiver:
        to: dict[str, Any] = {
            "webhooks": [webhook(receiver.url, ends) for ends in ("finished", "failed")]
        }
        jobs = [
            queue.enqueue("os.getcwd", **to),
            queue.enqueue(old_tasks.add, 1, **to),
            queue.enqueue(old_tasks.fail, **to),
        ]
        run = on.dispatch("child", {"name": "run"})
        redis.hset(f"rq:job:{run.id}-1", "webhooks", json.dumps([to["webhooks"][0].to_dict()]))
        abandoned = queue.create_job(old_tasks.add, (1,), **to)
        abandoned.save()
        redis.hset(abandoned.key, "status", "started")
        redis.zadd(StartedJobRegistry("tests", redis).key, {f"{abandoned.id}:e": 1})
        with a_worker_that_lives(on, tmp_path):
            assert {status(job) for job in (*jobs, abandoned)} == {JobStatus.FAILED}
        assert receiver.got == []
    assert "webhooks" in error(jobs[1])


FIELDS = {"repeat_intervals": "2.3", "repeats_left": "2.3", "number_of_retries": "2.1"}
FIELDS |= {"group_id": "2.0", "rate_limit_key": "3.0"}
"""What a job of an older RQ has no field of."""
_JUNK: list[tuple[str, bytes]] = [
    *((field, b"junk") for field in ("created_at", "enqueued_at", "started_at", "ended_at")),
    *((field, b"junk") for field in ("timeout", "ttl", "result_ttl", "failure_ttl", "status")),
    *((field, b"9" * 30) for field in ("timeout", "ttl", "result_ttl", "failure_ttl")),
    *((field, b"-5") for field in ("timeout", "result_ttl")),
    *(("dependency_ids", junk) for junk in (b"junk", b"\xff", b"7", b"[7]", b'["a\\n"]', b"{}")),
    *(("retry_intervals", junk) for junk in (b"junk", b"[]", b'["x"]', b"[1e400]", b"7")),
    *(("repeat_intervals", junk) for junk in (b"junk", b"[null]")),
    *((field, b"junk") for field in ("retries_left", "repeats_left", "number_of_retries")),
    *((field, b"junk") for field in ("enqueue_at_front", "allow_dependency_failures")),
    *((field, b"\xff") for field in ("description", "worker_name", "group_id", "rate_limit_key")),
    *((field, b"\xff") for field in ("origin", "success_callback_name")),
    *(("failure_callback_timeout", junk) for junk in (b"junk", b"9" * 30)),
    *(("meta", junk) for junk in (b"[1]", b"7")),
    *(("data", junk) for junk in (b"", b"junk", b"[1]", b"\xff", zlib.compress(b"[1, 2, 3, 4]"))),
    *(("data", junk) for junk in (BOMB, zlib.compress(BOMB))),
]
JUNK = [(field, value) for field, value in _JUNK if has(FIELDS.get(field, "1.16"))]


def test_junk_fails_its_own_job_alone_and_what_is_no_job_is_left(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    redis.set("rq:job:string", "not a hash")
    redis.hset("rq:job:empty", "status", "queued")
    ids = (b"string", b"empty", b"\xff\xfe", b"a b", b"../x", b"", b"x" * 10_000, b"no:such:job")
    redis.rpush(queue.key, *ids)
    junk = []
    for field, value in JUNK:
        job = queue.enqueue(old_tasks.add, 1, meta={"a": 1})
        redis.hset(job.key, field, value)
        if field in ("retry_intervals", "repeat_intervals"):
            redis.hset(job.key, mapping={"retries_left": 2, "repeats_left": 2})
        junk.append(job)
    unreadable = queue.enqueue(old_tasks.add, 1)
    redis.hset(unreadable.key, b"\xff", "junk")
    large = queue.enqueue(old_tasks.add, "x" * INFLATED_BYTES)
    stored = redis.hget(large.key, "data")
    good = queue.enqueue(old_tasks.add, 1)
    with a_worker_that_lives(on, tmp_path):
        assert status(good) == JobStatus.FINISHED
        ends = [(*said, status(job)) for said, job in zip(JUNK, junk, strict=True)]
    assert [end for end in ends if end[2] != JobStatus.FAILED] == []
    assert {status(unreadable), status(large)} == {JobStatus.FAILED}
    assert "created_at" in error(junk[0])
    assert "MB" in error(large)
    assert redis.hget(large.key, "data") == stored  # for a worker that may open it
    assert Job.fetch(junk[0].id, redis, JSONSerializer).get_status() == JobStatus.FAILED
    requeued = junk[0].requeue()
    with a_worker_that_lives(on, tmp_path):
        assert status(requeued) == JobStatus.FINISHED
    assert redis.get("rq:job:string") == b"not a hash"
    assert redis.llen(queue.key) == 0


@pytest.mark.parametrize("on", ["old"], indirect=True)
def test_junk_in_rqs_registries_ends_nothing(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    """What is due and what waits for another job is done; the rest fails, or waits for ever."""
    first = queue.enqueue(old_tasks.add, 1)
    dependents = [queue.enqueue(old_tasks.add, n, depends_on=first) for n in range(4)]
    due = [queue.enqueue_in(timedelta(0), old_tasks.add, n) for n in range(4)]
    for place in (dependents, due):
        redis.hset(place[0].key, "timeout", "junk")
        redis.hset(place[1].key, "dependency_ids", "junk")
        redis.delete(place[2].key)
        redis.set(place[2].key, "not a hash")
    redis.sadd(first.dependents_key, "no-such-job")
    for key in ("scheduled", "wip", "ready", "deferred", "failed", "finished"):
        redis.zadd(f"rq:{key}:tests", {b"\xff": 1, b"a:b:c": 1, b"no-such-job": 1})
    redis.rpush(f"{queue.key}:intermediate", b"\xff")
    redis.sadd("rq:rl-keys", b"\xff")
    redis.sadd("rq:groups", b"\xff")
    redis.sadd("rq:workers:tests", b"\xff")
    with a_worker_that_lives(on, tmp_path):
        assert status(first) == JobStatus.FINISHED
        assert {status(place[3]) for place in (dependents, due)} == {JobStatus.FINISHED}
        assert {status(job) for job in due[:2]} == {JobStatus.FAILED}


@pytest.mark.parametrize("on", ["old"], indirect=True)
def test_what_is_no_queue_or_set_of_rqs_is_put_aside(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    """At the worker's start, and while it works: no other queue waits for it."""
    other = Queue("old", connection=redis, serializer=JSONSerializer)
    first = other.enqueue(old_tasks.add, 1)
    keys = ["queues", "workers", "workers:tests", "queue:tests", "queue:tests:intermediate"]
    keys += ["wip:tests", "finished:tests", "failed:tests", "scheduled:tests", "deferred:tests"]
    for key in keys:
        redis.delete(f"rq:{key}")
        redis.set(f"rq:{key}", "junk")
    redis.hset("rq:scheduler-lock:tests", "junk", "junk")
    with a_worker_that_lives(on, tmp_path):
        assert status(first) == JobStatus.FINISHED
        for key in ("queue:tests", "queue:tests:intermediate", "wip:tests", "finished:tests"):
            redis.delete(f"rq:{key}")
            redis.hset(f"rq:{key}", "junk", "junk")
        assert status(other.enqueue(old_tasks.add, 2)) == JobStatus.FINISHED
        until(lambda: redis.type("rq:queue:tests") == b"none", every_seconds=0.2)
        assert status(queue.enqueue(old_tasks.add, 3)) == JobStatus.FINISHED
    assert redis.get("switchyard:misplaced:rq:workers") == b"junk"


@pytest.mark.parametrize("on", ["old"], indirect=True)
def test_what_takes_the_place_of_a_workers_own_keys_is_put_aside(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    """It stays registered, and its scheduler goes on."""
    with a_worker_that_lives(on, tmp_path):
        until(lambda: redis.exists("rq:scheduler-lock:tests"))
        assert status(queue.enqueue(old_tasks.add, 1)) == JobStatus.FINISHED
        (name,) = [one.name for one in registered_workers(redis)]
        scheduler = [*redis.scan_iter("rq:scheduler:*"), b"rq:scheduled:old"]
        for key in (f"rq:worker:{name}", *scheduler):
            redis.delete(key)
            redis.set(key, "junk")
        redis.delete("rq:scheduler-lock:old")
        redis.hset("rq:scheduler-lock:old", "junk", "junk")
        assert status(queue.enqueue(old_tasks.add, 1)) == JobStatus.FINISHED
        assert [(one.name, one.ours) for one in registered_workers(redis)] == [(name, True)]
        until(lambda: redis.type("rq:scheduled:old") == b"none", every_seconds=0.2)
        other = Queue("old", connection=redis, serializer=JSONSerializer)
        for each in (queue, other):
            assert status(each.enqueue_in(timedelta(0), old_tasks.add, 1)) == JobStatus.FINISHED
    assert redis.get(f"switchyard:misplaced:rq:worker:{name}") == b"junk"


def test_two_workers_put_the_same_aside(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What RQ has written there since the first of them came is left alone."""
    queue = Queue("tests", connection=redis)
    redis.flushall()
    redis.set(queue.key, "junk")
    moves = redis.transaction

    def beaten(*given: Any, **named: Any) -> Any:
        monkeypatch.undo()
        assert put_aside(redis, [queue.name])
        redis.rpush(queue.key, "a job")
        return moves(*given, **named)

    monkeypatch.setattr(redis, "transaction", beaten)
    assert put_aside(redis, [queue.name])
    assert redis.lrange(queue.key, 0, -1) == [b"a job"]
    assert redis.get("switchyard:misplaced:rq:queue:tests") == b"junk"


def test_what_was_put_aside_before_is_kept(redis: Redis) -> None:
    redis.flushall()
    for junk in ("first", "second"):
        redis.set("rq:queue:tests", junk)
        assert put_aside(redis, ["tests"])
    kept = {redis.get(key) for key in redis.scan_iter("switchyard:misplaced:rq:queue:tests*")}
    assert kept == {b"first", b"second"}


def test_a_client_that_decodes_answers_puts_nothing_of_rqs_aside(
    redis: Redis, redis_url: str
) -> None:
    """REDIS_URL may have `?decode_responses=true`, with which RQ does not work."""
    redis.flushall()
    redis.rpush("rq:queue:tests", "a job")
    with Redis.from_url(redis_url, decode_responses=True) as decoding:
        assert not put_aside(decoding, ["tests"])
    assert redis.lrange("rq:queue:tests", 0, -1) == [b"a job"]


def test_a_user_who_may_not_ask_for_types_has_workers_all_the_same(redis_url: str) -> None:
    admin = Redis.from_url(redis_url)
    admin.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-type"])
    try:
        with Redis.from_url(redis_url, username="narrow", password="x") as narrow:
            assert not put_aside(narrow, ["tests"])
    finally:
        admin.acl_deluser("narrow")


@pytest.mark.parametrize("stored", [BOMB, zlib.compress(BOMB)])
def test_nothing_is_inflated_beyond_the_bound(redis: Redis, stored: bytes) -> None:
    tracemalloc.start()
    try:
        job = WorkerJob("bomb", redis, JSONSerializer)
        for field in (b"data", b"exc_info", b"result", b"meta"):
            job.restore({b"data": b"[]", b"origin": b"tests"} | {field: stored})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * INFLATED_BYTES


@pytest.mark.parametrize("on", [""], indirect=True)
def test_what_lies_in_the_way_of_one_run_keeps_no_other_back(on: Side, redis: Redis) -> None:
    redis.set("rq:failed:tests", "no sorted set")
    runs = [on.dispatch("child", {"name": uuid4().hex}) for _ in range(3)]
    redis.delete("rq:queue:tests")
    redis.set(f"rq:job:{runs[0].id}-1", "no hash")
    on.runtime.store.send([run.id for run in runs])
    jobs: Any = redis.lrange("rq:queue:tests", 0, -1)
    assert {job.decode() for job in jobs} == {f"{run.id}-1" for run in runs}


@pytest.mark.parametrize("on", [""], indirect=True)
@pytest.mark.parametrize("key", ["queue:tests", "queues", "workers"])
def test_what_is_no_queue_is_put_aside_by_the_backend(on: Side, redis: Redis, key: str) -> None:
    """No worker need come to it: its runs count as lost, and are sent again."""
    store = on.runtime.store
    backend = store.backends["rq"]
    runs = [on.dispatch("child", {"name": uuid4().hex}).id for _ in range(3)]
    messages = store.messages(map(on.row, runs))
    for act in (
        lambda: backend.queued(messages),
        lambda: backend.send(messages),
        lambda: backend.cancel(messages),
    ):
        redis.delete("rq:queue:tests", f"rq:{key}")
        redis.set(f"rq:{key}", "junk")
        act()
        store.send(runs)
        assert backend.queued(messages) == set(runs)
        assert redis.smembers("rq:queues") == {b"rq:queue:tests"}


@pytest.mark.parametrize("on", [""], indirect=True)
def test_what_no_run_can_be_fails_its_own_job(
    on: Side, queue: Queue, redis: Redis, tmp_path: Path
) -> None:
    odd: list[Any] = [{"a": 1}, [], 7, "\0"]
    waiting = [queue.enqueue("queues.task.wait_for_run", each) for each in odd]
    for run, epoch in (("x", "1"), (["x"], 1), ("x", None), ("x", True), ("x", 9**99)):
        job_id = f"{run}-{epoch}" if isinstance(run, str) else None
        job = queue.enqueue("queues.task.perform", run, epoch, job_id=job_id)
        sent = WorkerJob.fetch(job.id, redis, JSONSerializer)
        assert isinstance(sent, WorkerJob)
        assert sent.run in (None, ("x", 9**99))
    with a_worker_that_lives(on, tmp_path):
        for job in waiting:
            assert status(job) == JobStatus.FAILED
            assert "no run" in error(job)
        until(lambda: redis.llen(queue.key) == 0, every_seconds=0.2)
    log = (tmp_path / "worker.log").read_text()
    assert "left as it is" not in log, log

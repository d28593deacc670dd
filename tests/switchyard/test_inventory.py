"""`cutover inventory`: what is in a live Redis, with no pickle opened and nothing changed."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rq
from click.testing import Result
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

import queues
from app.platform.config import load
from app.switchyard.commands.adoption import adoption_of
from app.switchyard.commands.checks import rq_bypasses, rq_workers
from app.switchyard.errors import CheckFailed
from app.switchyard.runs.relay import sweep
from queues.backend import TASK, connect
from queues.inventory import (
    CALL_SITES,
    GONE,
    MOST_CALL_SITES,
    PICKLED,
    UNREADABLE,
    call_sites,
    function_of,
    take,
)
from tests.support import old_tasks
from tests.support.rq_since import of_rq, since
from tests.support.sides import Side, app_on, build, environment, rq_worker
from tests.support.waiting import until

AT = "tests.support.old_tasks"


class Bomb:
    """Leaves a trace when it comes out of a pickle."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


@pytest.fixture
def app(redis_url: str, tmp_path: Path) -> Iterator[Flask]:
    connect(redis_url).flushall()
    call_sites.forget()
    call_sites._flush_at = 0.0
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url)
    with app_on(environ) as app:
        yield app


def taken(app: Flask, *options: str) -> Any:
    result: Result = app.test_cli_runner().invoke(args=["cutover", "inventory", "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def queue_named(found: Any, name: str) -> Any:
    return next(queue for queue in found["redis"]["queues"] if queue["name"] == name)


def everything(redis: Redis) -> dict[bytes, Any]:
    read: dict[Any, Any] = {
        b"hash": redis.hgetall,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": redis.smembers,
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        b"string": redis.get,
        b"stream": redis.xrange,
    }
    return {key: (read[redis.type(key)](key), redis.ttl(key) > 0) for key in redis.scan_iter()}


def test_by_place_and_function(app: Flask, redis: Redis, tmp_path: Path) -> None:
    plain = queues.Queue("old", connection=redis, serializer=JSONSerializer)
    pickled = queues.Queue("old", connection=redis)
    bad = plain.enqueue(old_tasks.fail)
    SimpleWorker(["old"], connection=redis, serializer=JSONSerializer).work(
        burst=True, logging_level="CRITICAL"
    )
    first = plain.enqueue(old_tasks.add, 1)
    plain.enqueue(old_tasks.add, 2, depends_on=first)
    plain.enqueue_in(timedelta(hours=1), old_tasks.add, 3)
    pickled.enqueue(old_tasks.ring, Bomb(str(tmp_path / "opened")), "x")
    plain.enqueue(old_tasks.mark, "declared")  # dispatched: by flag off, to RQ as a run
    rq.Queue("old", connection=redis, serializer=JSONSerializer).enqueue(old_tasks.mark, "direct")
    before = everything(redis)
    call_sites._flush_at = float("inf")
    found = taken(app)
    assert everything(redis) == before
    assert not (tmp_path / "opened").exists()

    old = queue_named(found, "old")
    counts = [old[place] for place in ("queued", "scheduled", "started", "deferred", "failed")]
    assert counts == [3, 1, 0, 1, 1]
    assert (old["pickled"], old["looked_at"]) == (1, 6)
    functions = {row["function"]: row for row in old["functions"]}
    assert set(functions) == {f"{AT}.{name}" for name in ("add", "fail", "mark", "ring")}
    add = functions[f"{AT}.add"]
    assert (add["queued"], add["scheduled"], add["deferred"], add["known"]) == (1, 1, 1, False)
    assert functions[f"{AT}.fail"]["failed"] == 1
    assert functions[f"{AT}.mark"]["known"] is True
    assert (functions[f"{AT}.ring"]["queued"], functions[f"{AT}.ring"]["known"]) == (1, False)
    ours = queue_named(found, "tests")["functions"]
    assert [(row["function"], row["queued"], row["known"]) for row in ours] == [(TASK, 1, True)]
    assert bad.get_status() == "failed"
    job = next(job for job in found["jobs"] if job["name"] == "old-mark")
    assert (job["legacy"], job["queue"], job["serverless"]) == (f"{AT}.mark", "tests", "inngest")
    assert {"function": f"{AT}.fail", "went": "rq", "why": "undeclared", "count": 1} in found[
        "redis"
    ]["call_sites"]


def test_large_queues_are_counted_and_sampled(app: Flask, redis: Redis) -> None:
    queue = rq.Queue("big", connection=redis, serializer=JSONSerializer)
    queue.enqueue_many(queue.prepare_data(old_tasks.add, (n,)) for n in range(450))
    redis.delete(rq.Queue.redis_queues_keys)  # which RQ 2.0 does not write here
    worker: Any = SimpleWorker(["big", "empty"], connection=redis)
    worker.register_birth()
    big = queue_named(taken(app, "--most", "300"), "big")
    assert (big["queued"], big["looked_at"]) == (450, 300)
    assert [(row["function"], row["queued"]) for row in big["functions"]] == [(f"{AT}.add", 300)]


def test_without_redis(tmp_path: Path) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", "redis://:secret@127.0.0.1:1/0")
    app = build(load(environ))
    found = taken(app)
    assert found["redis"]["reachable"] is False
    assert found["jobs"]
    result = app.test_cli_runner().invoke(args=["cutover", "inventory"])
    assert result.exit_code == 0
    assert "are unknown" in result.stderr
    assert "secret" not in result.output
    app.extensions["switchyard"].db.dispose()


@pytest.mark.parametrize(
    ("stored", "function"),
    [
        (zlib.compress(b'["a.b", null, [1], {}]'), "a.b"),
        (b'["a.b", null, [1], {}]', "a.b"),
        (zlib.compress(b'["a.b", null, ["' + b"x" * 10_000_000 + b'"], {}]'), "a.b"),
        *((pickle.dumps(("a.b", None, (), {}), protocol), "a.b") for protocol in (2, 3, 4, 5)),
        (zlib.compress(pickle.dumps(("a.b", None, ("x" * 10_000_000,), {}))), "a.b"),
        (pickle.dumps(("method", Bomb("/nowhere"), (), {})), PICKLED),
        (pickle.dumps({}), PICKLED),
        (b"\x80\x05", PICKLED),
        (None, GONE),
        (b"", UNREADABLE),
        (b"[[", UNREADABLE),
        (b"[" * 4096, UNREADABLE),
        (b'["' + b"x" * 5000 + b'", null, [], {}]', UNREADABLE),
        (b"[1, 2]", UNREADABLE),
        (b"\xff\xfe", UNREADABLE),
    ],
)
def test_the_function_of_stored_data(stored: bytes | None, function: str) -> None:
    assert function_of(stored) == function


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_anything_else_is_only_named(stored: bytes) -> None:
    assert isinstance(function_of(stored), str)


def test_junk_is_only_named(redis: Redis, redis_url: str) -> None:
    redis.flushall()
    redis.sadd("rq:queues", b"rq:queue:\xff", "rq:queue:old", "rq:queue:" + "x" * 100_000)
    redis.rpush(b"rq:queue:\xff", "gone")
    redis.rpush("rq:queue:old", b"\xff", "string", "gone", "empty", "callback")
    redis.set("rq:job:string", "no hash")
    redis.hset("rq:job:empty", "status", "queued")
    redis.hset("rq:job:callback", "data", b'["a.b", null, [], {}]')
    redis.hset("rq:job:callback", "success_callback_name", b"\xff" * 100_000)
    redis.zadd("rq:cron_schedulers", {b"\xff": 1, b"number": 2, b"deep": 3, b"bytes": 4})
    redis.hset("rq:cron_scheduler:number", "cron_jobs", "7")
    redis.hset("rq:cron_scheduler:deep", "cron_jobs", "[" * 100_000)
    redis.hset("rq:cron_scheduler:bytes", "cron_jobs", b"\xff")
    sites = {"7": 1, "[" * 100_000: 1, b"\xff": 1, '["a", "b", "c"]': "x", '["f", "rq", ""]': 3}
    redis.hset("switchyard:call-sites", mapping=sites)  # type: ignore[arg-type]
    redis.sadd("rq:workers", b"rq:worker:\xff", "rq:worker:string")
    redis.set("rq:worker:string", "no hash")
    found = take(redis_url, 10)
    old, long = found.queues
    assert {name: dict(counts) for name, counts in old.functions.items()} == {
        GONE: {"queued": 3},
        UNREADABLE: {"queued": 1},
        "a.b": {"queued": 1},
        r"\xff" * 75: {"queued": 1},
    }
    assert (long.counts["queued"], found.workers, found.cron) == (0, [], [])
    assert found.call_sites == [{"function": "f", "went": "rq", "why": "", "count": 3}]
    assert list(found.unreadable) == [
        r"rq:queue:\xff",
        *(f"rq:cron_scheduler:{name}" for name in ("number", "deep", "bytes")),
        "switchyard:call-sites",
    ]


ODD_KEYS = ["rq:workers", "rq:cron_scheduler:beat", "switchyard:call-sites"]
ODD_KEYS += ["rq:queue:foo", "rq:scheduled:foo", "rq:wip:foo", "rq:deferred:foo", "rq:failed:foo"]
ODD_KEYS += ["rq:finished:foo", "rq:scheduler:scheduled_jobs"]


def test_call_sites_without_end_are_listed_up_to_a_number(redis: Redis, redis_url: str) -> None:
    redis.flushall()
    sites: Any = {
        json.dumps([f"f{number}", "rq", ""]): 1 for number in range(MOST_CALL_SITES + 100)
    }
    redis.hset(CALL_SITES, mapping=sites)
    assert len(take(redis_url, 10).call_sites) == MOST_CALL_SITES


@pytest.mark.parametrize(
    "odd", [ODD_KEYS, ["rq:queue:foo"], ["rq:cron_schedulers", "rq:queues"]], ids=len
)
def test_a_key_of_another_type_is_named_and_hides_no_other(
    app: Flask, redis: Redis, tmp_path: Path, odd: list[str]
) -> None:
    serving: Any = SimpleWorker(["old"], connection=redis)
    serving.register_birth()
    rq.Queue("old", connection=redis).enqueue(old_tasks.mark, "direct")
    redis.sadd("rq:queues", "rq:queue:foo")
    redis.zadd("rq:cron_schedulers", {"beat": 1})
    for key in odd:
        redis.delete(key)
        redis.rpush(key, "junk") if key == "rq:workers" else redis.set(key, "junk")
    whole = taken(app)
    found = whole["redis"]
    assert (found["reachable"], found["error"]) == (True, None)
    unreadable = {row["key"]: row["why"] for row in found["unreadable"]}
    wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
    assert unreadable == dict.fromkeys(odd, wrong)
    assert [row["function"] for row in queue_named(whole, "old")["functions"]] == [f"{AT}.mark"]
    shown = app.test_cli_runner().invoke(args=["cutover", "inventory"]).stderr
    assert all(f"{key} in Redis cannot be read" in shown for key in odd)
    runtime = app.extensions["switchyard"]
    adopted = adoption_of(runtime, tmp_path, ("inngest",))
    assert adopted["redis"]["unreadable"] == found["unreadable"]
    with pytest.raises(CheckFailed, match=f"1 of {AT}.mark in old") as failed:
        rq_bypasses(runtime)
    assert all(key in str(failed.value) for key in odd)
    redis.delete("rq:queue:old")
    with pytest.raises(CheckFailed, match=odd[0]):
        rq_bypasses(runtime)


def test_what_a_user_may_not_read_is_named(redis: Redis, redis_url: str) -> None:
    redis.flushall()
    rq.Queue("old", connection=redis).enqueue(old_tasks.add, 1)
    rq.Queue("secret", connection=redis).enqueue(old_tasks.add, 1)
    keys = ["rq:queues", "rq:job:*", "rq:*:old", "rq:scheduler:*", "rq:cron*", "rq:f*"]
    redis.acl_setuser("narrow", enabled=True, passwords=["+pw"], keys=keys, commands=["+@all"])
    try:
        found = take(redis_url.replace("unix://", "unix://narrow:pw@"), 10)
    finally:
        redis.acl_deluser("narrow")
    refused = ["rq:workers", "switchyard:call-sites"]
    refused += [f"rq:{key}:secret" for key in ("queue", "scheduled", "wip", "deferred")]
    assert found.unreadable == dict.fromkeys(refused, "No permissions to access a key")
    assert {queue.name: queue.counts["queued"] for queue in found.queues} == {"old": 1, "secret": 0}


@since("2.12")
def test_what_goes_past_the_flag(app: Flask, redis: Redis) -> None:
    """RQ's own cron, rq-scheduler and whoever has a Queue of their own go past it."""
    plain = rq.Queue("old", connection=redis)
    plain.enqueue(old_tasks.mark, "direct")
    plain.enqueue(old_tasks.add, 1)
    plain.enqueue(old_tasks.add, 2, on_success=rq.Callback(old_tasks.pay))
    job = plain.create_job(old_tasks.pay, args=("p", 1))
    job.save()
    redis.zadd("rq:scheduler:scheduled_jobs", {job.id: 4e9})
    cron = of_rq("rq.cron", "CronScheduler")(redis, name="beat")
    cron.register(old_tasks.mark, "old", cron="0 9 * * *")
    cron.register(old_tasks.add, "old", interval=60)
    cron.register_birth()
    found = taken(app)["redis"]
    past = [
        (queue["name"], row["function"], row["bypasses"])
        for queue in found["queues"]
        for row in queue["functions"]
        if row["bypasses"] is not None
    ]
    assert past == [
        ("old", f"{AT}.mark", "old-mark"),
        ("old", f"{AT}.pay", "old-pay"),
        ("(rq-scheduler)", f"{AT}.pay", "old-pay"),
    ]
    assert [(row["func_name"], row["cron"], row["bypasses"]) for row in found["cron"]] == [
        (f"{AT}.mark", "0 9 * * *", "old-mark"),
        (f"{AT}.add", None, None),
    ]
    shown = app.test_cli_runner().invoke(args=["cutover", "inventory"]).stdout
    assert "old-mark, but it bypasses the flag" in shown
    with pytest.raises(CheckFailed, match=rf"er: 1 of {AT}.mark in old, .* rq cron's {AT}.mark$"):
        rq_bypasses(app.extensions["switchyard"])
    redis.flushall()
    queue = queues.Queue("old", connection=redis)
    first = queue.enqueue(old_tasks.add, 1)
    for option in ({"depends_on": first}, {"ttl": 60}, {"on_failure": rq.Callback(old_tasks.add)}):
        queue.enqueue(old_tasks.pay, "p", 1, **option)
    assert rq_bypasses(app.extensions["switchyard"]) == "nothing bypasses the flag"


def test_a_worker_that_fails_runs_is_named(
    app: Flask, redis: Redis, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An old worker, whose jobs are pickled, serves a queue that has runs."""
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url)
    for queues_of in (["old", "tests"], ["others"]):
        worker: Any = SimpleWorker(queues_of, connection=redis)
        worker.register_birth()
    with rq_worker(environ, tmp_path / "worker.log"):
        until(lambda: len(taken(app)["redis"]["workers"]) == 3)
        workers = taken(app)["redis"]["workers"]
    assert sorted((worker["queues"], worker["ours"]) for worker in workers) == [
        (["old", "tests"], False),
        (["others"], False),
        (["tests"], True),
    ]
    runtime = app.extensions["switchyard"]
    with pytest.raises(CheckFailed, match=r"fail the runs they take: \w+ \(.*old, tests\)$"):
        rq_workers(runtime)
    Side("rq", runtime, environ).dispatch("noop", {"name": "n"})
    SimpleWorker(["tests"], connection=redis).work(burst=True, logging_level="CRITICAL")
    until(lambda: sweep(runtime.store).sent)
    (named,) = [record for record in caplog.records if "takes runs" in record.getMessage()]
    assert "start `flask switchyard worker` instead" in named.getMessage()
    redis.flushall()
    assert rq_workers(runtime) == "no other rq worker takes runs"
    redis.set("rq:workers", "junk")
    with pytest.raises(CheckFailed, match=r"^rq:workers cannot be read: WRONGTYPE"):
        rq_workers(runtime)
    assert named.__dict__["worker"] in [w["name"] for w in workers if w["queues"] != ["others"]]

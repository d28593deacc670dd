"""Old call sites of declared jobs: dispatched by the flag, or left on RQ with the reason."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import rq
from redis import Redis
from rq import Callback, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

import queues
from app.switchyard.errors import KeyConflict, SettingsError
from app.switchyard.job import Catalogue, Legacy
from app.switchyard.runtime import process_runtime
from queues.backend import TASK
from queues.dropin import StaysOnRQ, payload_of
from queues.inventory import CALL_SITES, call_sites, take
from queues.versions import DuplicateJobError, NeedsNewerRQ
from tests.support import old_jobs, old_tasks
from tests.support.old_calls import on, queue, redis, rows, work
from tests.support.rq_since import has, of_rq, since
from tests.support.sides import (
    Side,
)

__all__ = ["on", "queue", "redis"]

AT = old_jobs.AT
Repeat = of_rq("rq", "Repeat")
RateLimit = of_rq("rq.rate_limit", "RateLimit")
Webhook = of_rq("rq.webhook", "Webhook")


def counts(redis: Redis) -> dict[tuple[str, str, str], int]:
    call_sites._flush_at = 0.0
    call_sites.flush(redis)
    seen = take(process_runtime().settings.redis_url, 0).call_sites
    return {
        (row["function"].removeprefix(f"{AT}."), row["went"], row["why"]): row["count"]
        for row in seen
    }


def test_a_declared_function_is_dispatched(on: Side, queue: Any, redis: Redis) -> None:
    n = uuid4().hex
    job = queue.enqueue(old_tasks.mark, n)
    assert isinstance(job, Job)
    assert (job.func_name, job.args, job.origin) == (f"{AT}.mark", (n,), "old")
    assert (job.get_status(), job.return_value()) == (JobStatus.QUEUED, None)
    assert job.latest_result() is None
    (row,) = rows(on, "old-mark")
    assert (row.id, row.backend, row.payload) == (job.id, "memory", f'{{"failAt":0,"name":"{n}"}}')
    work(on)
    assert job.get_status() == JobStatus.FINISHED
    assert job.is_finished
    assert (job.return_value(), job.result, on.marks(n)) == (n, n, {n: 1})
    assert job.ended_at is not None
    assert redis.keys("rq:*") == []


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "payload"),
    [
        (old_tasks.pay, ("p", 5), {}, '{"amount":5,"note":null,"payoutId":"p"}'),
        (f"{AT}.pay", ("p", 5, "n"), {}, '{"amount":5,"note":"n","payoutId":"p"}'),
        (old_tasks.pay, (), {"payout": "p", "cents": 7}, '{"amount":7,"note":null,"payoutId":"p"}'),
        ("nowhere.tasks.far", (), {"name": "n", "fail_at": 3}, '{"failAt":3,"name":"n"}'),
        ("nowhere.tasks.far", ("by position",), {}, None),
    ],
)
def test_arguments_are_bound(
    on: Side, queue: Any, function: Any, args: Any, kwargs: Any, payload: str | None
) -> None:
    queue.enqueue_call(function, args=args, kwargs=kwargs)
    found = [row.payload for row in rows(on, "old-pay") + rows(on, "old-far")]
    assert (found, queue.count) == (([], 1) if payload is None else ([payload], 0))


def test_the_job_that_is_enqueued_is_the_one_that_comes_back(on: Side, queue: Any) -> None:
    n = uuid4().hex
    job = Job.create(old_tasks.mark, (n,), connection=queue.connection, meta={"who": "me"})
    assert queue.enqueue_job(job) is job
    assert queues.Job.fetch(job.id, queue.connection).meta == {"who": "me"}
    work(on)
    assert (job.get_status(), on.marks(n)) == (JobStatus.FINISHED, {n: 1})


def test_what_is_in_redis_already_is_not_new(on: Side, queue: Any, redis: Redis) -> None:
    """Also where its function was read: it would be a run beside the job that Redis has."""
    rq.Queue("old", connection=redis).enqueue(old_tasks.mark, "n", job_id="fetched")
    fetched = Job.fetch("fetched", redis)
    assert fetched.func_name == f"{AT}.mark"
    saved = Job.create(old_tasks.mark, ("n",), id="saved", connection=redis)
    saved.save()
    for job in (fetched, saved):
        queue.enqueue_job(job)
        assert queue.fetch_job(job.id) == job
    assert (rows(on, "old-mark"), queue.job_ids) == ([], ["fetched", "fetched", "saved"])


def test_every_job_is_an_instance_of_the_drop_ins(queue: Any, redis: Redis) -> None:
    plain, run = queue.enqueue(old_tasks.add, 1), queue.enqueue(old_tasks.mark, "m")
    for job in (plain, run):
        found = queues.Job.fetch(job.id, connection=redis)
        assert isinstance(job, queues.Job)
        assert found == job
        assert job == found
    assert f"{run.get_status()}" == f"{plain.get_status()}"  # RQ 1 has text there
    own: Any = type("Own", (queues.Job,), {})
    assert not isinstance(plain, own)


def test_jobs_of_a_queue_are_the_runs_that_wait_in_it(on: Side, queue: Any, redis: Redis) -> None:
    """RQ's pickle cannot open the jobs that deliver runs."""
    run = queue.enqueue(old_tasks.pay, "p", 5)
    delivers = queues.Queue("old", connection=redis, serializer=JSONSerializer)
    delivers.enqueue(TASK, run.id, 1, job_id=f"{run.id}-1", description=f"old-pay {run.id}")
    plain = queue.enqueue(old_tasks.add, 1, job_id="its-1", description="of its")
    assert [job.func_name for job in queue.jobs] == [f"{AT}.pay", f"{AT}.add"]
    assert queue.jobs == [run, plain]


def test_delay_of_a_decorated_function(on: Side) -> None:
    """Its Redis is not there at all: what is dispatched elsewhere needs none."""
    n = uuid4().hex
    decorated: Any = old_tasks.decorated
    job = decorated.delay(n)
    work(on)
    assert (job.get_status(), on.marks(n)) == (JobStatus.FINISHED, {n: 1})


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("depends_on", {"depends_on": "first"}),
        ("callbacks", {"on_success": Callback(old_tasks.succeeded)}),
        ("callbacks", {"on_failure": Callback(old_tasks.failed)}),
        ("callbacks", {"on_stopped": Callback(old_tasks.failed)}),
        pytest.param(
            "webhooks",
            {"webhooks": [Webhook("http://127.0.0.1:1/", "finished")]},
            marks=since("2.10"),
        ),
        pytest.param("repeat", {"repeat": Repeat(times=1)}, marks=since("2.3")),
        pytest.param(
            "rate_limit", {"rate_limit": RateLimit("k", concurrency=1)}, marks=since("3.0")
        ),
        ("ttl", {"ttl": 60}),
        ("meta", {"meta": {"cannot": object()}}),
        ("arguments", {"args": ("p", "not a number")}),
        ("arguments", {"args": ("p", 1, object)}),
        ("arguments", {"args": ("p",)}),
        ("arguments", {"args": ("p", 1), "kwargs": {"more": 2}}),
        ("pipeline", {"pipeline": True}),
    ],
)
def test_what_cannot_be_a_run_stays_on_rq(
    on: Side,
    queue: Any,
    redis: Redis,
    caplog: pytest.LogCaptureFixture,
    why: str,
    options: dict[str, Any],
) -> None:
    queue.enqueue(old_tasks.add, 1, job_id="first")
    with redis.pipeline() as pipe, caplog.at_level(logging.WARNING):
        if "pipeline" in options:
            options = {"pipeline": pipe}
        job = queue.enqueue(old_tasks.pay, **{"args": ("p", 1), "kwargs": {}} | options)
        pipe.execute()
    assert type(job) is Job
    assert Job.exists(job.id, redis)
    assert rows(on, "old-pay") == []
    assert counts(redis)["pay", "rq", why] == 1
    assert [record.__dict__["reason"].split(":")[0] for record in caplog.records] == [why]


def test_a_converter_that_fails_leaves_the_call_on_rq(on: Side, redis: Redis) -> None:
    converter = Legacy(f"{AT}.pay", lambda order: {"payoutId": order["id"]})
    spec = replace(on.runtime.catalogue["old-pay"], legacy=converter)
    with pytest.raises(StaysOnRQ, match=r"^arguments: KeyError: 'id'"):
        payload_of(Job.create(f"{AT}.pay", args=({},), connection=redis), spec)


def test_a_synchronous_queue_stays_synchronous(on: Side, redis: Redis) -> None:
    queue = queues.Queue("old", connection=redis, is_async=False)
    assert queue.enqueue(old_tasks.pay, "p", 1).return_value() == "old p 1"
    assert rows(on, "old-pay") == []
    assert counts(redis) == {("pay", "rq", "is_async=False"): 1}


def test_later(on: Side, queue: Any) -> None:
    at = datetime(2031, 5, 6, 7, tzinfo=UTC)
    job = queue.enqueue_at(at, old_tasks.mark, "then", job_id="then")
    before = datetime.now(UTC)
    soon = queue.enqueue_in(timedelta(hours=1), old_tasks.mark, "soon")
    assert job.get_status() == soon.get_status(refresh=False) == JobStatus.SCHEDULED
    # Made within one millisecond, they come in no order: known by the key.
    hence, then = sorted(rows(on, "old-mark"), key=lambda row: row.key == "then")
    assert (then.due_at, then.key) == (at, "then")
    assert timedelta(0) <= hence.due_at - before - timedelta(hours=1) < timedelta(minutes=1)


def test_a_job_id_is_the_runs_key(on: Side, queue: Any, redis: Redis) -> None:
    n = uuid4().hex
    first = queue.enqueue(old_tasks.mark, n, job_id="mine")
    again = queue.enqueue(old_tasks.mark, n, job_id="mine")
    with pytest.raises(KeyConflict):
        queue.enqueue(old_tasks.mark, "other", job_id="mine")
    work(on)
    ended = queue.enqueue(old_tasks.mark, n, job_id="mine")
    work(on)
    assert first.id == again.id == "mine"
    assert ended.get_status(refresh=False) == JobStatus.FINISHED
    assert on.marks(n) == {n: 1}
    assert counts(redis)["mark", "dispatched", "known"] == 2


@since("2.8")
def test_unique_is_refused_as_in_rq(on: Side, queue: Any) -> None:
    """Whatever the arguments of the second call."""
    then = datetime(2031, 5, 6, 7, tzinfo=UTC)
    queue.enqueue(old_tasks.mark, "n", job_id="once", unique=True)
    # Before RQ 3 its enqueue_at() forgot the option.
    for again in (queue.enqueue, partial(queue.enqueue_at, then))[: 1 + has("3.0")]:
        for name in ("n", "other"):
            with pytest.raises(DuplicateJobError):
                again(old_tasks.mark, name, job_id="once", unique=True)
        with pytest.raises(ValueError, match="explicit job_id"):
            again(old_tasks.mark, "n", unique=True)
    assert len(rows(on, "old-mark")) == 1


@pytest.mark.skipif(has("2.8"), reason="there it has them")
def test_what_the_installed_rq_has_not_is_said_by_version(queue: Any) -> None:
    """It is said of the options that a method takes here whatever RQ there is."""
    job = queue.create_job(old_tasks.add, (1,), job_id="once")
    with pytest.raises(NeedsNewerRQ, match=r"unique needs RQ 2\.8 or later, and \d"):
        queue.enqueue_job(job, unique=True)
    if not has("2.0"):
        with pytest.raises(NeedsNewerRQ, match=r"group_id needs RQ 2\.0 or later"):
            queue.enqueue_many([], group_id="g")


def test_many_mixed(on: Side, queue: Any, redis: Redis) -> None:
    base = queue.enqueue(old_tasks.add, 1)
    data = queue.prepare_data
    jobs = queue.enqueue_many(
        [
            data(old_tasks.mark, ("a",), job_id="a"),
            data(old_tasks.add, (1,), job_id="b"),
            data(old_tasks.pay, ("c", 1), job_id="c"),
            data(old_tasks.add, (1,), job_id="d", depends_on=base),
            data(old_tasks.mark, ("e",), job_id="e", meta={"m": 1}, at_front=True),
            data(old_tasks.mark, ("f",), job_id="f", depends_on=base),
        ]
    )
    assert [job.id for job in jobs] == ["a", "b", "c", "e", "d", "f"]
    assert [row.key for row in rows(on, "old-mark")] == ["a", "e"]
    assert queue.job_ids == [base.id, "b"]
    assert counts(redis) == {
        ("add", "rq", "undeclared"): 3,
        ("mark", "dispatched", ""): 1,
        ("mark", "dispatched", "at_front"): 1,
        ("mark", "rq", "depends_on"): 1,
        ("pay", "dispatched", ""): 1,
    }
    only = queue.enqueue_many([data(old_tasks.mark, (str(n),)) for n in range(3)])
    assert [job.args for job in only] == [("0",), ("1",), ("2",)]
    assert queue.enqueue_many([]) == []


def test_options_that_give_way_are_recorded(on: Side, queue: Any, redis: Redis) -> None:
    job = queue.enqueue(
        old_tasks.pay, "p", 1, retry=Retry(max=9), job_timeout=5, meta={"a": 1}, result_ttl=3
    )
    queue.enqueue(old_tasks.pay, "q", 1, retry=Retry(max=1), job_timeout=600)
    assert job.timeout == 600
    assert counts(redis) == {
        ("pay", "dispatched", "retry,timeout,result_ttl"): 1,
        ("pay", "dispatched", ""): 1,
    }


def test_counts_that_cannot_be_written_cost_nothing(queue: Any, redis: Redis) -> None:
    redis.set(CALL_SITES, "something else")
    job = queue.enqueue(old_tasks.add, 1)
    assert job.get_status() == JobStatus.QUEUED


def test_a_function_stands_for_one_job(on: Side) -> None:
    jobs, spec = Catalogue(), on.runtime.catalogue["old-mark"]
    jobs.add(spec)
    with pytest.raises(SettingsError, match="in the place of both"):
        jobs.add(replace(on.runtime.catalogue["old-pay"], legacy=spec.legacy))

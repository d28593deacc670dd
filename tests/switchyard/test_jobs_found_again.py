"""The jobs of old call sites found again: their state, results, meta and dependents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import rq
from redis import Redis
from rq import SimpleWorker, get_current_job
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus

import queues
from app.switchyard.errors import BadInput
from tests.support import old_jobs, old_tasks, tasks
from tests.support.old_calls import on, queue, redis, work
from tests.support.sides import (
    Side,
)
from tests.support.waiting import PATIENCE_SECONDS

__all__ = ["on", "queue", "redis"]

AT = old_jobs.AT


def test_a_job_is_found_again(on: Side, queue: Any, redis: Redis) -> None:
    named = queue.enqueue(old_tasks.pay, "p", 5, job_id="pay-p")
    unnamed = queue.enqueue(old_tasks.mark, "m")
    work(on)
    for job_id in ("pay-p", unnamed.id):
        for found in (queues.Job.fetch(job_id, connection=redis), queue.fetch_job(job_id)):
            assert found is not None
            assert (found.id, found.get_status()) == (job_id, JobStatus.FINISHED)
            assert found.description == found.get_call_string()
    again: Any = queues.Job.fetch("pay-p", connection=redis)
    assert again.return_value() == named.return_value() == {"paid": 5}
    assert again.latest_result(timeout=int(PATIENCE_SECONDS)).return_value == {"paid": 5}
    assert [result.return_value for result in again.results()] == [{"paid": 5}]
    with pytest.raises(NoSuchJobError):
        queues.Job.fetch("unknown", connection=redis)


def test_many_jobs_are_found_again(on: Side, queue: Any, redis: Redis) -> None:
    """They are found in Redis or in the ledger, in the order asked for, and a run on which others
    depend is found as itself, not as the RQ job that stands for it."""
    run = queue.enqueue(old_tasks.pay, "p", 5, job_id="pay-p", meta={"who": "ada"})
    plain = queue.enqueue(old_tasks.add, 1, depends_on=run)
    other = queue.enqueue(old_tasks.mark, "m")
    ids = ["unknown", run.id, plain.id, other.id]
    many: list[Any] = queues.Job.fetch_many(iter(ids), connection=redis)
    assert [None if one is None else one.id for one in many] == [None, *ids[1:]]
    assert [queues.Job.exists(job_id, connection=redis) for job_id in ids] == [False, *[True] * 3]
    runs: list[Any] = [many[1], queues.Job.fetch(run.id, connection=redis), queue.fetch_job(run.id)]
    for found in runs:
        assert (found.run_id, found.meta) == (run.run_id, {"who": "ada"})
        assert (found.func_name, found.get_status()) == (f"{AT}.pay", JobStatus.QUEUED)


def test_failure_cancel_requeue(on: Side, queue: Any, redis: Redis) -> None:
    bad = queue.enqueue(old_tasks.pay, "p", -1)
    on.finish(on.row(bad.run_id))
    assert bad.get_status() == JobStatus.FAILED
    assert "on purpose" in bad.latest_result().exc_string
    assert bad.requeue().get_status() == JobStatus.QUEUED
    bad.cancel()
    assert bad.get_status() == JobStatus.CANCELED
    for gone in (bad.cancel, bad.requeue):  # RQ requeues failed jobs alone
        with pytest.raises(InvalidJobOperation):
            gone()
    bad.delete()
    gone = queue.enqueue(old_tasks.mark, "gone")
    gone.delete()
    work(on)
    assert (gone.get_status(), on.marks("gone")) == (JobStatus.CANCELED, {})
    for forbidden in (gone.set_status, lambda: queue.enqueue_job(gone)):
        with pytest.raises(InvalidJobOperation):
            forbidden()
    assert redis.keys("rq:job*") == []


def test_meta_is_kept_in_the_ledger(on: Side, queue: Any, redis: Redis) -> None:
    job = queue.enqueue(tasks.seen, 1, job_id="seen-it", meta={"who": "ada"})
    unnamed = queue.enqueue(f"{tasks.__name__}.seen", 1)
    work(on)
    assert job.return_value()[0] == job.id == "seen-it"
    assert unnamed.return_value()[0] == unnamed.id
    assert (job.meta, job.get_meta()) == ({"who": "ada"}, {"who": "ada", "seen": 1})
    again: Any = queues.Job.fetch("seen-it", connection=redis)
    again.meta["looked"] = datetime(2026, 1, 1, tzinfo=UTC)
    again.save_meta()
    job.refresh()
    assert job.meta == {"who": "ada", "seen": 1, "looked": "2026-01-01T00:00:00Z"}
    again.meta["looked"] = object()
    with pytest.raises(BadInput, match="meta is not JSON"):
        again.save()
    known = queue.enqueue(tasks.seen, 1, job_id="seen-it", meta={"who": "eve"})
    assert known.meta["who"] == "ada"
    assert get_current_job() is None


def test_rq_jobs_wait_for_a_run(on: Side, queue: Any, redis: Redis) -> None:
    """RQ takes a job that it does not have for one that is done: it must not."""
    good = queue.enqueue(old_tasks.pay, "p", 1)
    bad = queue.enqueue(old_tasks.pay, "q", -1, job_id="bad")
    after = queue.enqueue(old_tasks.add, 1, depends_on=good)
    both_of = queue.enqueue_many([queue.prepare_data(old_tasks.add, (2,), depends_on=[good.id])])
    never = queue.enqueue(old_tasks.add, 1, depends_on="bad")

    def round_() -> None:
        SimpleWorker(["old"], connection=redis).work(burst=True, logging_level="CRITICAL")
        for job_id in queue.scheduled_job_registry.get_job_ids():  # as the scheduler does in time
            queue.scheduled_job_registry.remove(job_id)
            rq.Queue("old", connection=redis)._enqueue_job(Job.fetch(job_id, connection=redis))

    round_()
    assert after.get_status() == JobStatus.DEFERRED
    on.finish(on.row(good.run_id), on.row(bad.run_id))
    round_()
    round_()
    assert [after.return_value(), both_of[0].return_value()] == [2, 3]
    assert Job.fetch(good.id, connection=redis).return_value() == {"paid": 1}
    assert never.get_status() == JobStatus.DEFERRED
    assert Job.fetch("bad", connection=redis).get_status() == JobStatus.FAILED


def test_dependents_go_the_way_that_cancel_and_delete_are_asked_for(queue: Any) -> None:
    first, second, third = (queue.enqueue(old_tasks.mark, str(n)) for n in range(3))
    after = [queue.enqueue(old_tasks.add, 1, depends_on=run) for run in (first, second, third)]
    first.cancel(enqueue_dependents=True)
    second.delete(delete_dependents=True)
    third.delete()
    assert [Job.exists(job.id, queue.connection) for job in after] == [True, False, True]
    assert [after[n].get_status() for n in (0, 2)] == [JobStatus.QUEUED, JobStatus.DEFERRED]
    queue.enqueue(old_tasks.mark, "3").cancel(enqueue_dependents=True)

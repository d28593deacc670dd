"""`from queues import Queue, job` in place of rq's: old call sites as they are, by the flag.

What is declared as a job is dispatched; all else goes to RQ, by RQ's own code. Only three methods
differ: where a new job is enqueued, scheduled, or enqueued with many.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rq
from redis.client import Pipeline
from rq import decorators
from rq.exceptions import DuplicateJobError, InvalidJobOperation
from rq.job import UNEVALUATED, Job
from rq.queue import EnqueueData
from rq.utils import resolve_function_reference

from app.switchyard.context import Payload
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.job import JobSpec
from app.switchyard.runs.models import OPEN
from app.switchyard.runs.run import Run
from flags import LEGACY_BACKEND
from queues.bridge import BRIDGE
from queues.callsites import call_sites
from queues.carry import NotCarried, payload_of, replaced
from queues.dispatched import DispatchedJob, find, jobs, parts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    """A job that can be carried."""

    job: Job
    spec: JobSpec
    payload: Payload
    replaced: str
    at: datetime | None = None

    def item(self) -> Item:
        return Item(self.payload, key=self.job._id, at=self.at)


class Queue(rq.Queue):
    """rq's Queue, which dispatches what is declared as a job."""

    def enqueue_job(
        self,
        job: Job,
        pipeline: Pipeline | None = None,
        at_front: bool = False,
        unique: bool = False,
    ) -> Job:
        """See rq. Raises KeyConflict where the job_id stands for other arguments."""
        self._stand_in(job)
        call = self._call(job, pipeline, at_front=at_front)
        if call is not None:
            return self._dispatched([call], unique=unique)[0]
        enqueued = super().enqueue_job(job, pipeline=pipeline, at_front=at_front, unique=unique)
        call_sites.flush(self.connection)
        return enqueued

    def schedule_job(
        self,
        job: Job,
        datetime: datetime,
        pipeline: Pipeline | None = None,
        unique: bool = False,
    ) -> Job:
        """See rq. A time without a zone is the machine's own, as RQ has it."""
        call = self._call(job, pipeline, at=datetime)
        if call is not None:
            return self._dispatched([call], unique=unique)[0]
        scheduled = super().schedule_job(job, datetime, pipeline=pipeline, unique=unique)
        call_sites.flush(self.connection)
        return scheduled

    def enqueue_many(
        self,
        job_datas: Iterable[EnqueueData],
        pipeline: Pipeline | None = None,
        group_id: str | None = None,
    ) -> list[Job]:
        """See rq. What is dispatched goes first: all of one job's calls, or none."""
        datas = list(job_datas)
        calls: dict[int, _Call] = {}
        ids = [data.job_id for data in datas if data.job_id is not None]
        if len(ids) == len(set(ids)):  # else RQ refuses them all
            for place, data in enumerate(datas):
                call = self._call_of(data, pipeline, group_id)
                if call is not None:
                    calls[place] = call
        done = dict(zip(calls, self._dispatched(list(calls.values())), strict=True))
        left = [data for place, data in enumerate(datas) if place not in calls]
        if not left and done:
            return list(done.values())
        others = iter(super().enqueue_many(left, pipeline=pipeline, group_id=group_id))
        call_sites.flush(self.connection)
        # RQ gives those without dependencies first, as they came.
        first = [
            done[place] if place in done else next(others)
            for place, data in enumerate(datas)
            if place in done or not data.depends_on
        ]
        return [*first, *others]

    def fetch_job(self, job_id: str) -> Job | None:
        """See rq; also what was dispatched, whichever queue it was enqueued on."""
        return super().fetch_job(job_id) or find(job_id, self.connection, self.serializer)

    def _call_of(
        self, data: EnqueueData, pipeline: Pipeline | None, group_id: str | None
    ) -> _Call | None:
        instance, path = resolve_function_reference(data.func)
        declared = jobs().legacy()
        if not declared or (path not in declared and not data.depends_on):
            call_sites.note(_named(instance, path), LEGACY_BACKEND, "undeclared")
            return None
        fields = data._asdict()
        at_front = fields.pop("at_front")
        job = self.create_job(**fields, group_id=group_id)
        self._stand_in(job)
        return self._call(job, pipeline, at_front=at_front)

    def _call(
        self,
        job: Job,
        pipeline: Pipeline | None,
        *,
        at_front: bool = False,
        at: datetime | None = None,
    ) -> _Call | None:
        """What to dispatch; None for what stays on RQ, counted with the reason."""
        if isinstance(job, DispatchedJob):
            raise InvalidJobOperation(f"{job.id} is run {job.run_id}: it is enqueued already")
        if job._func_name is UNEVALUATED:
            return None  # fetched from Redis, and nobody opened it yet: not new
        path = _named(job._instance, str(job._func_name))
        spec = None if job._instance is not None else jobs().legacy().get(path)
        if spec is None:
            call_sites.note(path, LEGACY_BACKEND, "undeclared")
            return None
        try:
            if pipeline is not None:
                raise NotCarried("pipeline")
            if not self._is_async:
                raise NotCarried("is_async=False")
            payload = payload_of(job, spec)
        except NotCarried as reason:
            why = str(reason)
            call_sites.note(path, LEGACY_BACKEND, why.partition(":")[0])
            log.warning("stays on RQ", extra={"function": path, "rq_job": job.id, "reason": why})
            return None
        when = None if at is None else at.astimezone(UTC)
        differs = replaced(job, spec, self._default_timeout, at_front=at_front)
        return _Call(job, spec, payload, differs, when)

    def _dispatched(self, calls: Sequence[_Call], *, unique: bool = False) -> list[Job]:
        if not calls:
            return []
        parts()
        groups: dict[str, list[int]] = defaultdict(list)
        for place, call in enumerate(calls):
            groups[call.spec.name].append(place)
        made: dict[int, Job] = {}
        for name, places in groups.items():
            runs = dispatch_many(name, [calls[place].item() for place in places])
            for place, run in zip(places, runs, strict=True):
                made[place] = self._as_job(calls[place], run, unique=unique)
        return [made[place] for place in range(len(calls))]

    def _as_job(self, call: _Call, run: Run, *, unique: bool) -> Job:
        assert call.spec.legacy is not None
        why = call.replaced if run.created else "known"
        call_sites.note(call.spec.legacy.function, "dispatched", why)
        if run.backend == LEGACY_BACKEND:
            call_sites.flush(self.connection)  # else there may be no Redis any more
        if not run.created:
            if unique:
                raise DuplicateJobError(f"{run.job}: {run.key!r} is run {run.id}")
            if run.status not in OPEN:
                log.warning("not done again: its job_id is an ended run's", extra={"run": run.id})
        job = DispatchedJob.made_from(call.job, run)
        job.origin, job.timeout = self.name, call.spec.timeout
        return job

    def _stand_in(self, job: Job) -> None:
        """Let RQ jobs wait for runs: RQ itself takes a job it does not have for one that is done"""
        if not job._dependency_ids or not jobs().legacy():
            return
        for job_id in job._dependency_ids:
            run = None
            if not Job.exists(job_id, self.connection):
                run = find(job_id, self.connection, self.serializer)
            if run is not None:
                plain = rq.Queue(self.name, self.connection, serializer=self.serializer)
                try:
                    plain.enqueue(BRIDGE, run.run_id, job_id=job_id, unique=True)
                except DuplicateJobError:
                    continue  # another dependent was faster


def _named(instance: object, function: str) -> str:
    if instance is None:
        return function
    return f"{type(instance).__module__}.{type(instance).__qualname__}.{function}"


class job(decorators.job):
    """rq's decorator, whose `delay` and `enqueue` dispatch what is declared as a job."""

    queue_class = Queue

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.queue_class is rq.Queue:
            self.queue_class = Queue

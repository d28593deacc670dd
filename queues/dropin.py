"""`from queues import Queue, job` in place of rq's: old call sites stay, and follow the flag.

A function that is declared as a job is dispatched. Everything else goes to RQ through RQ's own
code. Only three methods differ: those that enqueue a new job, schedule one, or enqueue many.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import rq
from redis.client import Pipeline
from rq import decorators
from rq.exceptions import InvalidJobOperation
from rq.job import UNEVALUATED, Job
from rq.queue import EnqueueData
from rq.utils import import_attribute

from app.switchyard.context import Payload
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.errors import BadInput, KeyConflict
from app.switchyard.job import JobSpec, Legacy
from app.switchyard.logs import logger_of
from app.switchyard.runs.models import OPEN
from app.switchyard.runs.store import Run, meta_json, new_run
from app.switchyard.runtime import process_runtime
from flags import LEGACY_BACKEND
from queues.backend import DEPENDENCY
from queues.dispatched import DispatchedJob, as_run, find
from queues.inventory import call_sites
from queues.versions import (
    REFUSES_SAME_IDS,
    DuplicateJobError,
    enqueue_once,
    extras_of,
    options,
)

log = logger_of(__name__)


class StaysOnRQ(Exception):
    """The call cannot become a run. The reason is the message's first word."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that can become a run."""

    job: Job
    spec: JobSpec
    item: Item
    replaced: str


class Queue(rq.Queue):
    """rq's Queue, which dispatches calls of declared jobs."""

    def enqueue_job(
        self,
        job: Job,
        pipeline: Pipeline | None = None,
        at_front: bool = False,
        unique: bool = False,
    ) -> Job:
        """See rq. Raises KeyConflict where the job_id was used with other arguments."""
        self._put_dependencies(job)
        call = self._call(job, pipeline, at_front=at_front)
        if call is not None:
            return self._dispatched({0: call}, unique=unique)[0]
        enqueued = super().enqueue_job(job, pipeline, at_front, **options(unique=unique))
        call_sites.flush(self.connection)
        return enqueued

    def schedule_job(
        self,
        job: Job,
        datetime: datetime,
        pipeline: Pipeline | None = None,
        unique: bool = False,
    ) -> Job:
        """See rq. A time without a zone is in the machine's zone, as in RQ."""
        call = self._call(job, pipeline, at=datetime)
        if call is not None:
            return self._dispatched({0: call}, unique=unique)[0]
        scheduled = super().schedule_job(job, datetime, pipeline, **options(unique=unique))
        call_sites.flush(self.connection)
        return scheduled

    def enqueue_many(
        self,
        job_datas: Iterable[EnqueueData],
        pipeline: Pipeline | None = None,
        group_id: str | None = None,
    ) -> list[Job]:
        """See rq. Dispatched calls go first: all calls of one job, or none."""
        group = options(group_id=group_id)
        datas = list(job_datas)
        ids = [data.job_id for data in datas if data.job_id is not None]
        calls: dict[int, _Call] = {}
        if len(ids) == len(set(ids)) or not REFUSES_SAME_IDS:  # else RQ refuses them all
            for index, data in enumerate(datas):
                fields = data._asdict()
                at_front = fields.pop("at_front")
                job = self.create_job(**fields, **group)
                self._put_dependencies(job)
                call = self._call(job, pipeline, at_front=at_front)
                if call is not None:
                    calls[index] = call
        done = self._dispatched(calls)
        left = [data for index, data in enumerate(datas) if index not in calls]
        if not left and done:
            return list(done.values())
        others = iter(super().enqueue_many(left, pipeline=pipeline, **group))
        call_sites.flush(self.connection)
        # RQ returns those without dependencies first, in their order.
        first = [
            done[index] if index in done else next(others)
            for index, data in enumerate(datas)
            if index in done or not data.depends_on
        ]
        return [*first, *others]

    def fetch_job(self, job_id: str) -> Job | None:
        """See rq. Also finds dispatched runs, whichever queue they were enqueued on."""
        in_redis = super().fetch_job(job_id)
        if in_redis is None:
            return find(job_id, self.connection, self.serializer)
        return as_run(in_redis)

    def _call(
        self,
        job: Job,
        pipeline: Pipeline | None,
        *,
        at_front: bool = False,
        at: datetime | None = None,
    ) -> _Call | None:
        """The call to dispatch. None where it stays on RQ, which is counted with the reason."""
        if isinstance(job, DispatchedJob):
            raise InvalidJobOperation(f"{job.id} is run {job.run_id}: it is enqueued already")
        if job._data is not UNEVALUATED:
            return None  # fetched from Redis or saved there, so it is not new
        path = _path(job._instance, str(job._func_name))
        spec = None if job._instance is not None else _declared().get(path)
        if spec is None:
            call_sites.note(path, LEGACY_BACKEND, "undeclared")
            return None
        try:
            if pipeline is not None:
                raise StaysOnRQ("pipeline")
            if not self._is_async:
                raise StaysOnRQ("is_async=False")
            payload = payload_of(job, spec)
        except StaysOnRQ as reason:
            why = str(reason)
            call_sites.note(path, LEGACY_BACKEND, why.partition(":")[0])
            log.warning("stays on RQ", extra={"function": path, "rq_job": job.id, "reason": why})
            return None
        when = None if at is None else at.astimezone(UTC)
        replaced = _replaced(job, spec, self._default_timeout, at_front=at_front)
        return _Call(job, spec, Item(payload, key=job._id, at=when, meta=job.meta), replaced)

    def _dispatched(self, calls: Mapping[int, _Call], *, unique: bool = False) -> dict[int, Job]:
        """The jobs of the calls, under the calls' own numbers and in their order."""
        by_job: dict[str, dict[int, _Call]] = defaultdict(dict)
        for number, call in calls.items():
            if unique and call.item.key is None:
                raise ValueError("unique=True requires an explicit job_id")
            by_job[call.spec.name][number] = call
        jobs: dict[int, Job] = {}
        for name, group in by_job.items():
            try:
                runs = dispatch_many(name, [call.item for call in group.values()])
            except KeyConflict as known:
                if unique:
                    raise DuplicateJobError(str(known)) from None
                raise
            for (number, call), run in zip(group.items(), runs, strict=True):
                jobs[number] = self._as_job(call, run, unique=unique)
        return {number: jobs[number] for number in calls}

    def _as_job(self, call: _Call, run: Run, *, unique: bool) -> Job:
        why = call.replaced if run.created else "known"
        call_sites.note(str(call.job.func_name), "dispatched", why)
        if run.backend == LEGACY_BACKEND:
            call_sites.flush(self.connection)  # without an RQ job there may be no Redis any more
        if not run.created:
            if unique:
                raise DuplicateJobError(f"{run.job}: {run.key!r} is run {run.id}")
            if run.status not in OPEN:
                log.warning("not done again: a run with its job_id ended", extra={"run": run.id})
        job = DispatchedJob.of_run(call.job, run)
        job.origin, job.timeout = self.name, call.spec.timeout
        return job

    def _put_dependencies(self, job: Job) -> None:
        """Put an RQ job in place of each run on which `job` depends: RQ considers a job that does
        not exist to be done."""
        for job_id in job._dependency_ids if _declared() else ():
            run = None if Job.exists(job_id, self.connection) else find(job_id, self.connection)
            if run is not None:
                plain = rq.Queue(self.name, connection=self.connection, serializer=self.serializer)
                enqueue_once(plain, DEPENDENCY, run.run_id, job_id=job_id)


class job(decorators.job):
    """rq's decorator, whose `delay` and `enqueue` dispatch calls of declared jobs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.queue_class is rq.Queue:
            self.queue_class = Queue


def _declared() -> Mapping[str, JobSpec]:
    return process_runtime().catalogue.legacy


def _path(instance: object, function: str) -> str:
    if instance is None:
        return function
    kind = instance if isinstance(instance, type) else type(instance)
    return f"{kind.__module__}.{kind.__qualname__}.{function}"


def payload_of(job: Job, spec: JobSpec) -> Payload:
    """The payload made of the call's arguments. Raises StaysOnRQ."""
    callbacks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name)
    stays = {"depends_on": job._dependency_ids, "callbacks": any(callbacks), "ttl": job.ttl}
    for reason, given in {**stays, **extras_of(job)}.items():
        if given:
            raise StaysOnRQ(reason)
    assert spec.legacy is not None
    try:
        payload = _bound(spec.legacy, job.args, job.kwargs)
        new_run(spec, payload, job._id, job.created_at)  # or it would be refused when it is written
    except (TypeError, ValueError, BadInput) as misfit:
        raise StaysOnRQ(f"arguments: {misfit}") from None
    try:
        meta_json(job.meta)
    except BadInput as unfit:
        raise StaysOnRQ(f"meta: {unfit}") from None
    return payload


def _bound(legacy: Legacy, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    if legacy.payload is not None:
        try:
            return legacy.payload(*args, **kwargs)
        except Exception as misfit:
            raise TypeError(f"{type(misfit).__name__}: {misfit}") from misfit
    signature = _signature(legacy.function)
    if signature is None:
        if args:
            raise TypeError("by position, of a function that this process cannot import")
        return kwargs
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    payload: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_KEYWORD:
            payload.update(value)
        elif kind != inspect.Parameter.VAR_POSITIONAL:
            payload[name] = value
        elif value:
            raise TypeError(f"*{name} has no names")
    return payload


@cache
def _signature(path: str) -> inspect.Signature | None:
    try:
        return inspect.signature(import_attribute(path))
    except (ImportError, ValueError, AttributeError, TypeError):
        return None  # RQ enqueues by name what only its workers can import


def _replaced(job: Job, spec: JobSpec, default_timeout: float, *, at_front: bool) -> str:
    """Which of the caller's options differ from the job's own rule, which overrides them."""
    differs = {
        "retry": job.retries_left is not None and job.retries_left + 1 != spec.attempts,
        "timeout": job.timeout not in (None, default_timeout, spec.timeout),
        "at_front": at_front or job.enqueue_at_front,
        "result_ttl": job.result_ttl is not None,
        "failure_ttl": job.failure_ttl is not None,
    }
    return ",".join(name for name, does in differs.items() if does)

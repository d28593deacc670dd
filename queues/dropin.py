"""`from queues import Queue, job` in place of rq's: old call sites as they are, by the flag.

What is declared as a job is dispatched; all else goes to RQ, by RQ's own code. Only three methods
differ: where a new job is enqueued, scheduled, or enqueued with many.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import rq
from redis.client import Pipeline
from rq import decorators
from rq.exceptions import DuplicateJobError, InvalidJobOperation
from rq.job import UNEVALUATED, Job
from rq.queue import EnqueueData
from rq.utils import import_attribute, resolve_function_reference

from app.switchyard.context import Payload
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.errors import BadInput
from app.switchyard.job import JobSpec, Legacy
from app.switchyard.loading import process_runtime
from app.switchyard.runs.create import new_run
from app.switchyard.runs.models import OPEN
from app.switchyard.runs.run import Run
from flags import LEGACY_BACKEND
from queues.dispatched import DispatchedJob, find
from queues.inventory import call_sites
from queues.task import BRIDGE

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
        declared = process_runtime().catalogue.legacy()
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
        spec = None if job._instance is not None else process_runtime().catalogue.legacy().get(path)
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
        if not job._dependency_ids or not process_runtime().catalogue.legacy():
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


class NotCarried(Exception):
    """It stays on RQ, for the reason that is the message's first word."""


def payload_of(job: Job, spec: JobSpec) -> Payload:
    """The payload that the job's arguments make. Raises NotCarried."""
    for reason, stands in (
        ("depends_on", job._dependency_ids),
        (
            "callbacks",
            job._success_callback_name or job._failure_callback_name or job._stopped_callback_name,
        ),
        ("webhooks", job.webhooks),
        ("repeat", job.repeats_left),
        ("rate_limit", job.has_rate_limit),
        ("group", job.group_id),
        ("ttl", job.ttl),
    ):
        if stands:
            raise NotCarried(reason)
    if spec.legacy is None:
        raise NotCarried("undeclared")
    try:
        payload = _bound(spec.legacy, tuple(job.args), dict(job.kwargs))
        new_run(spec, payload, job._id, job.created_at)  # else it would be refused as it is written
    except (TypeError, ValueError, BadInput) as misfit:
        raise NotCarried(f"arguments: {misfit}") from None
    return payload


def _bound(legacy: Legacy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
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


def replaced(job: Job, spec: JobSpec, default_timeout: float, *, at_front: bool) -> str:
    """Which of the caller's options give way to the job's own rule, where they differ."""
    differs = {
        "retry": job.retries_left is not None and job.retries_left + 1 != spec.attempts,
        "timeout": job.timeout not in (None, default_timeout, spec.timeout),
        "at_front": at_front or job.enqueue_at_front,
        "meta": job.meta,
        "result_ttl": job.result_ttl is not None,
        "failure_ttl": job.failure_ttl is not None,
    }
    return ",".join(name for name, does in differs.items() if does)

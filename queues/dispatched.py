"""The rq Job that an old call site gets for a run. It reads everything from the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from redis import Redis
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.results import Result
from sqlalchemy import select, update

from app.switchyard.errors import RunNotMovable
from app.switchyard.job import JobPayload, JobSpec
from app.switchyard.runs import operate
from app.switchyard.runs.engine import CurrentRun, current_run
from app.switchyard.runs.models import AnyRow, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import Run, RunStore, meta_json
from app.switchyard.runtime import process_runtime
from queues.backend import DEPENDENCY, connect
from queues.versions import status_of, time_of

_STATUS = {
    Status.PENDING: JobStatus.QUEUED,
    Status.RUNNING: JobStatus.STARTED,
    Status.WAITING: JobStatus.STARTED,
    Status.SUCCEEDED: JobStatus.FINISHED,
    Status.FAILED: JobStatus.FAILED,
    Status.CANCELLED: JobStatus.CANCELED,
}
_LOOK_SECONDS = 0.2


class DispatchedJob(RQJob):
    """A run of the ledger as an rq Job. Redis has nothing of it."""

    run_id: str
    supports_redis_streams = True
    """Its results are in the ledger. RQ 1 and 2.0 would ask Redis for its version first."""
    _meta: dict[str, Any] | None = None
    """None until it is read."""

    @classmethod
    def of_run(cls, asked: RQJob, run: Run) -> DispatchedJob:
        """The job for a call that was enqueued and dispatched as `run`. It is the caller's own
        object, as in RQ: after `enqueue_job(job)` old code goes on with `job`."""
        meta = asked.meta
        job: RQJob = asked
        job.__class__ = cls
        assert isinstance(job, cls)
        job._id, job.run_id = asked._id or run.id, run.id
        job._meta = meta if run.created else None
        job.enqueued_at = job.created_at
        if run.status != Status.PENDING or job._status != JobStatus.SCHEDULED:
            job._status = _STATUS[Status(run.status)]
        return job

    @classmethod
    def of_current(
        cls, run: CurrentRun, function: str, payload: JobPayload, kwargs: Mapping[str, Any]
    ) -> DispatchedJob:
        """The job for the current run, whose body calls `function` with `kwargs`."""
        context = run.context
        rule = context.spec.key
        redis = _connect(process_runtime().settings.redis_url)
        # The key is the job_id given at an old call site, unless the job has a key rule of its own.
        by_rule = rule is not None and rule(payload) == run.key
        try:
            job = cls(run.id if by_rule else run.key, redis)
        except ValueError:  # not a valid RQ id, such as a tick's time
            job = cls(run.id, redis)
        job._stand_for(run.id, context.spec, function, dict(kwargs))
        job.created_at = job.enqueued_at = time_of(context.created_at)
        job.started_at = time_of(context.now())
        job._status, job._meta = JobStatus.STARTED, None
        if context.spec.attempts > 1:
            job.retries_left = context.spec.attempts - context.attempt
            job.number_of_retries = context.attempt - 1
        return job

    def _stand_for(self, run_id: str, spec: JobSpec, function: str, kwargs: dict[str, Any]) -> None:
        self.run_id, self.origin, self.timeout = run_id, spec.queue, spec.timeout
        self.func_name, self.args, self.kwargs = function, (), kwargs
        self.description = self.get_call_string()

    def get_id(self) -> str:
        """Its id. RQ 3 dropped this method, which old code still calls."""
        return self.id

    @property
    def meta(self) -> dict[str, Any]:
        """The meta with which it was enqueued, or that `save_meta()` saved."""
        if self._meta is None:
            self._meta = json.loads(self._row().meta or "{}")
        return self._meta

    @meta.setter
    def meta(self, meta: dict[str, Any]) -> None:
        self._meta = meta

    def get_meta(self, refresh: bool = True) -> dict[str, Any]:
        """See rq."""
        if refresh:
            self._meta = None
        return self.meta

    def save_meta(self) -> None:
        """Save `meta` in the ledger as JSON. Raises BadInput where JSON cannot represent it."""
        text = meta_json(self.meta)
        run = current_run()
        if run is not None and run.id == self.run_id:
            run.context.note_meta(text)
            return
        with process_runtime().db.autocommit() as connection:
            connection.execute(update(R).where(R.id == self.run_id).values(meta=text))

    def save(self, *_: Any, **__: Any) -> None:
        """Save `meta`. Everything else is the ledger's."""
        self.save_meta()

    def _row(self) -> AnyRow:
        with process_runtime().db.autocommit() as connection:
            chosen = select(R.__table__).where(R.id == self.run_id)
            row = connection.execute(chosen).one_or_none()
        if row is None:
            raise NoSuchJobError(f"No such run: {self.run_id}")
        return row

    def refresh(self) -> None:
        """Read its run again. Raises NoSuchJobError where the ledger no longer has it."""
        self.read(self._row())

    def read(self, row: AnyRow) -> None:
        """Copy the fields of its run's row."""
        later = row.status == Status.PENDING and row.due_at > process_runtime().store.clock()
        self._status = JobStatus.SCHEDULED if later else _STATUS[Status(row.status)]
        self.created_at = self.enqueued_at = time_of(row.created_at)
        self.started_at = None if row.started_at is None else time_of(row.started_at)
        self.ended_at = None if row.ended_at is None else time_of(row.ended_at)
        self._exc_info = row.error
        self._meta = json.loads(row.meta or "{}")

    def get_status(self, refresh: bool = True) -> JobStatus:
        """The run's status in the ledger. See rq."""
        if refresh:
            self.refresh()
        return status_of(self._status)

    def latest_result(self, timeout: int = 0) -> Result | None:
        """Its result or error once it has ended. Waits up to `timeout` seconds for that."""
        end = time.monotonic() + timeout
        while (row := self._row()).ended_at is None:
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _LOOK_SECONDS))
        done = row.status == Status.SUCCEEDED
        return Result(
            self.id,
            Result.Type.SUCCESSFUL if done else Result.Type.FAILED,
            self.connection,
            id=f"{row.id}-{row.epoch}",
            created_at=row.ended_at,
            return_value=json.loads(row.result) if done and row.result is not None else None,
            exc_string=None if done else row.error or str(row.status),
            serializer=self.serializer,
        )

    def results(self) -> list[Result]:
        """Its result in a list, once it has one: the ledger keeps the latest."""
        latest = self.latest_result()
        return [] if latest is None else [latest]

    @property
    def result(self) -> Any:
        """What the run returned, once it has succeeded."""
        return self.return_value(refresh=True)

    def _move(self, move: Callable[[RunStore, str], object]) -> None:
        try:
            move(process_runtime().store, self.run_id)
        except RunNotMovable as refusal:
            raise InvalidJobOperation(str(refusal)) from None
        self.refresh()

    def cancel(
        self, pipeline: Any = None, enqueue_dependents: bool = False, *_: Any, **__: Any
    ) -> dict[str, list[str]]:
        """Cancel the run. Raises InvalidJobOperation where it has ended."""
        self._move(operate.cancel)
        if enqueue_dependents:  # RQ does it with the job on which they depend
            with suppress(NoSuchJobError):
                RQJob.fetch(self.id, self.connection, self.serializer).cancel(None, True)
        return {}

    def delete(self, *_: Any, delete_dependents: bool = False, **__: Any) -> None:
        """Cancel the run if it is open. The ledger keeps its row."""
        if self._row().ended_at is None:
            self.cancel()
        if delete_dependents:
            self.delete_dependents()

    def requeue(self, at_front: bool = False) -> RQJob:
        """Retry the failed run. Raises InvalidJobOperation where it has not failed."""
        if self._row().status == Status.CANCELLED:
            raise InvalidJobOperation(f"{self.id} is cancelled: only failed jobs are requeued")
        self._move(operate.retry)
        return self

    def set_status(self, *_: Any, **__: Any) -> None:
        """Raise InvalidJobOperation: the run's status is the ledger's."""
        raise InvalidJobOperation(f"{self.id} is run {self.run_id}: the ledger sets its status")


_connect = cache(connect)


class _AnyJob(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is Job and isinstance(instance, RQJob))


class Job(RQJob, metaclass=_AnyJob):
    """rq's Job, which also finds dispatched runs. Every job is an instance of it, as `enqueue()`
    returns RQ's own and those of runs."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> RQJob:
        """The job with this id, from Redis or else from the ledger. Raises NoSuchJobError."""
        try:
            return as_run(super().fetch(id, connection=connection, serializer=serializer))
        except NoSuchJobError:
            job = find(id, connection, serializer)
            if job is None:
                raise
            return job

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> list[RQJob | None]:
        """The jobs with these ids, each from Redis or else from the ledger. None where neither
        has it."""
        ids = list(job_ids)
        in_redis = super().fetch_many(ids, connection=connection, serializer=serializer)
        return [
            find(job_id, connection, serializer) if job is None else as_run(job)
            for job_id, job in zip(ids, in_redis, strict=True)
        ]

    @classmethod
    def exists(cls, job_id: str, connection: Any = None) -> bool:
        """Whether Redis or the ledger has a job with this id."""
        return super().exists(job_id, connection=connection) or bool(find(job_id, connection))


def as_run(job: RQJob) -> RQJob:
    """The job from Redis. Where it only delivers a run, or stands for one so that others may depend
    on it, the run."""
    description, job_id = job.description or "", job.id
    if not description.startswith(f"{DEPENDENCY}("):
        job_id = job_id.rpartition("-")[0]
        if not job_id or not description.endswith(f" {job_id}"):
            return job
    return find(job_id, job.connection, job.serializer) or job


def find(job_id: str, connection: Redis | None, serializer: Any = None) -> DispatchedJob | None:
    """The dispatched job with this id: its run's, or the job_id with which it was enqueued."""
    runtime = process_runtime()
    declared = {spec.name: (path, spec) for path, spec in runtime.catalogue.legacy.items()}
    if not declared:
        return None
    chosen = select(R.__table__).where(R.job.in_(declared))
    with runtime.db.autocommit() as sql:
        row = (
            sql.execute(chosen.where(R.id == job_id)).one_or_none()
            or sql.execute(chosen.where(R.key == job_id).order_by(R.id.desc())).first()
        )
    if row is None:
        return None
    function, spec = declared[row.job]
    job = DispatchedJob(job_id, connection, serializer)
    job._stand_for(row.id, spec, function, json.loads(row.payload))
    job.read(row)
    return job

"""What a worker may perform of what it finds in Redis: runs, and old jobs that the settings allow.

Anyone who can write to Redis can write anything: a field that cannot be read fails its own job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import DefaultSerializer
from rq.utils import import_attribute

from app.switchyard.errors import SwitchyardError
from app.switchyard.logs import logger_of
from queues import task
from queues.backend import DEPENDENCY, TASK, call_of, is_pickled, is_wrong_type
from queues.versions import JOB_ID_PATTERN, StopRequested, parse_job_id

log = logger_of(__name__)

OWN: dict[str, Callable[..., Any]] = {TASK: task.perform, DEPENDENCY: task.wait_for_run}
INFLATED_BYTES = 16 * 1024 * 1024
"""The largest call that is read, since one that is small in Redis may inflate to gigabytes."""
_MOST = 10 * 365 * 24 * 3600
"""Ten years in seconds. RQ, Redis and the kernel do not accept numbers of any size."""
_NO_WEBHOOKS = "it names webhooks, which would go anywhere: this worker sends none"
_NUMBERS = (
    *("timeout", "ttl", "result_ttl", "failure_ttl", "rate_limit_concurrency"),
    *("retries_left", "number_of_retries", "repeats_left", "_success_callback_timeout"),
    *("_failure_callback_timeout", "_stopped_callback_timeout"),
)


class NotAllowed(SwitchyardError):
    """A job in Redis names a function that was never declared. It is not executed."""


class WorkerJob(Job):
    """An RQ job that runs a declared function or nothing.

    Without this, anyone who can write to Redis can run any importable dotted path in the worker,
    even with the JSON serializer. Callbacks are dotted paths too, and webhooks can go anywhere.
    """

    legacy: frozenset[str] = frozenset()
    """The other functions that may run: LEGACY_FUNCTIONS."""
    legacy_pickle = False
    refusal = ""
    """Why the job is not performed."""
    _too_large = False

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:
        """See rq. Raises NoSuchJobError also for what is no job's id, or no hash."""
        try:
            if JOB_ID_PATTERN.fullmatch(parse_job_id(id)):
                return super().fetch(id, connection=connection, serializer=serializer)
        except ResponseError as failure:
            if not is_wrong_type(failure):
                raise
        log.error("no job: left alone", extra={"rq_job": ascii(id)[:200]})
        raise NoSuchJobError(f"no job {id[:200]!a}")

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> list[Job | None]:
        """See rq. One that cannot be read hides no other."""
        jobs: list[Job | None] = []
        for job_id in job_ids:
            try:
                jobs.append(cls.fetch(job_id, connection, serializer))
            except NoSuchJobError:
                jobs.append(None)
        return jobs

    @property
    def in_process(self) -> bool:
        """Whether it needs no work horse, since it is a run's or is not performed."""
        if self.legacy_pickle and is_pickled(self.data):
            return False
        try:
            return self.func_name in tuple(OWN)
        except DeserializationError:
            return True

    @property
    def run(self) -> tuple[str, int] | None:
        """Its run and epoch, if it is written as RQBackend writes a run's job."""
        if self.refusal or is_pickled(self.data):
            return None
        try:
            function, kwargs, (run_id, epoch) = self.func_name, self.kwargs, self.args
        except (DeserializationError, TypeError, ValueError):
            return None
        is_run = isinstance(run_id, str) and type(epoch) is int  # True is no epoch
        is_run = is_run and self.id == f"{run_id}-{epoch}" and function == TASK and not kwargs
        return (run_id, epoch) if is_run else None

    def restore(self, raw_data: Any) -> Any:
        """Read as much of the job as can be read, and a pickled one in its own format if that is
        allowed. `refusal` says what is wrong with the rest."""
        fields = dict(raw_data)
        if b"data" not in fields:
            raise NoSuchJobError(f"no call in {self.id}")
        call = call_of(fields.pop(b"data"), INFLATED_BYTES + 1)
        if self.legacy_pickle and is_pickled(call):
            self.serializer = DefaultSerializer
        self.refusal = _NO_WEBHOOKS if fields.pop(b"webhooks", None) else ""
        try:
            read = self._read(fields)
        except StopRequested:  # by a signal meanwhile: it says nothing of the job
            raise
        except Exception:  # noqa: BLE001 - a stranger may have written anything
            sound = {name: value for name, value in fields.items() if self._reads(name, value)}
            self.refusal = f"{sorted(fields.keys() - sound.keys())!a} cannot be read"
            read = self._read(sound)
        self.__dict__.update(read.__dict__)
        self._too_large = len(call) > INFLATED_BYTES
        if self._too_large:
            self.refusal = f"its call is larger than {INFLATED_BYTES >> 20} MB"
        self.data = b"" if self._too_large else call

    def _reads(self, name: bytes, value: bytes) -> bool:
        try:
            self._read({name: value})
        except StopRequested:
            raise
        except Exception:  # noqa: BLE001
            return False
        return True

    def _read(self, fields: dict[bytes, bytes]) -> Job:
        """The fields as RQ reads them. Raises where RQ could not process one of them."""
        job = Job(self._id, self.connection, self.serializer)
        # Left by an earlier attempt and not needed. RQ would inflate the latter without limit.
        job.restore({**fields, b"data": b"", b"result": b"", b"exc_info": b""})
        for number in (getattr(job, name, None) for name in _NUMBERS):
            if number is not None and not -1 <= number <= _MOST:
                raise ValueError("out of range")
        for gaps in (job.retry_intervals, getattr(job, "repeat_intervals", None)):
            if gaps is not None and not (gaps and all(0 <= gap <= _MOST for gap in gaps)):
                raise ValueError("no seconds")
        if job._status is not None:
            JobStatus(job._status)  # RQ 1 takes any text
        if not isinstance(job._dependency_ids, list) or not isinstance(job.meta, dict):
            raise TypeError("no list, or no object")
        if not all(map(JOB_ID_PATTERN.fullmatch, job._dependency_ids)):
            raise ValueError("no job ids")
        return job

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """See rq. A call that was too large to read stays in Redis as it is."""
        fields = super().to_dict(include_meta, include_result)
        if self._too_large:
            del fields["data"]
        return fields

    def dependencies_are_met(self, *args: Any, **options: Any) -> bool:
        """See rq. A job whose dependencies cannot be read is enqueued, and fails."""
        return not self._dependency_ids or super().dependencies_are_met(*args, **options)

    def _deserialize_data(self) -> None:
        if self.refusal:
            raise DeserializationError(self.refusal)
        if is_pickled(self.data) and not self.legacy_pickle:
            raise DeserializationError("it is a pickle, which can run code: see LEGACY_PICKLE")
        super()._deserialize_data()  # type: ignore[no-untyped-call]

    def _declared(self, path: str | None) -> Callable[..., Any] | None:
        if path is None or path in OWN:
            return OWN.get(path or "")
        module = path.rpartition(".")[0]
        if path in self.legacy or f"{module}.*" in self.legacy:
            function = import_attribute(path)
            # `from os import system` does not make `system` the module's own.
            owned = getattr(function, "__module__", None) == module
            if path in self.legacy or (owned and not isinstance(function, ModuleType)):
                return function
        return self._method(path)

    def _method(self, path: str) -> Callable[..., Any]:
        """The static or class method of a class that an allowed module itself defines."""
        owner, _, name = path.rpartition(".")
        module, _, kind = owner.rpartition(".")
        if f"{module}.*" in self.legacy:
            defined = getattr(import_module(module), kind, None)
            is_own = isinstance(defined, type) and defined.__module__ == module
            if is_own and isinstance(vars(defined).get(name), staticmethod | classmethod):
                return getattr(defined, name)  # type: ignore[no-any-return]
        raise NotAllowed(f"{path!r} is not a declared job function")

    @property
    def func(self) -> Any:
        """The function to run. Raises NotAllowed."""
        if self.instance is None:
            return self._declared(self.func_name)
        kind = self.instance if isinstance(self.instance, type) else type(self.instance)
        named = {f"{kind.__module__}.{kind.__qualname__}", f"{kind.__module__}.*"}
        if not self.legacy_pickle or named.isdisjoint(self.legacy):
            raise NotAllowed("a job on an instance is not a declared job function")
        return getattr(self.instance, self.func_name or "")

    # Each raises NotAllowed where it names a function that is not declared.
    success_callback = property(lambda self: self._declared(self._success_callback_name))
    failure_callback = property(lambda self: self._declared(self._failure_callback_name))
    stopped_callback = property(lambda self: self._declared(self._stopped_callback_name))

"""The RQ worker class of the Procfile: `rq worker` with an allow-list and a prompt stop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from rq import Queue, SimpleWorker
from rq import Worker as ForkingWorker
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from app.switchyard.config import split
from app.switchyard.errors import SwitchyardError
from queues import bridge, task
from queues.backend import TASK
from queues.legacy import Allowed, data_of, is_pickled
from queues.scheduler import Scheduler

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0
"""How long a step in hand may go on after SIGTERM; then the process ends and the lease runs out."""


class NotAllowed(SwitchyardError):
    """A job in Redis names a function that was never declared; it is not executed."""


class AllowedJob(Job):
    """An RQ job that runs a declared function or nothing.

    Without it whoever can write to Redis runs any importable dotted path in the worker, JSON
    serializer or not. Callbacks are dotted paths too.
    """

    allowed: dict[str, Callable[..., Any]] = {  # noqa: RUF012
        TASK: task.perform,
        bridge.BRIDGE: bridge.wait_for_run,
    }
    legacy = Allowed()
    """What else may run: LEGACY_FUNCTIONS."""

    @property
    def is_run(self) -> bool:
        """Whether it carries a run of the ledger."""
        try:
            return not is_pickled(self.data) and self.func_name == TASK
        except DeserializationError:
            return False

    def restore(self, raw_data: Any) -> Any:
        """Read what Redis has of it; a pickled job in its own format, if that is allowed."""
        if self.legacy.pickle and is_pickled(data_of(raw_data)):
            self.serializer = DefaultSerializer
        return super().restore(raw_data)

    def _deserialize_data(self) -> None:
        if is_pickled(self.data) and not self.legacy.pickle:
            raise DeserializationError("a pickle, which runs code when opened: see LEGACY_PICKLE")
        super()._deserialize_data()  # type: ignore[no-untyped-call]

    def _declared(self, path: str | None) -> Callable[..., Any] | None:
        if path is None:
            return None
        found = self.allowed.get(path) or self.legacy.function(path)
        if found is None:
            raise NotAllowed(f"{path!r} is not a declared job function")
        return found

    @property
    def func(self) -> Any:
        """The function to run. Raises NotAllowed."""
        if self.instance is None:
            return self._declared(self.func_name)
        method = self.legacy.method(self.instance, self.func_name or "")
        if method is None:
            raise NotAllowed("a job on an instance is not a declared job function")
        return method

    @property
    def success_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._success_callback_name)

    @property
    def failure_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._failure_callback_name)

    @property
    def stopped_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._stopped_callback_name)


class Worker(ForkingWorker, SimpleWorker):
    """Does runs in its own process: the ledger makes good what dies with it, so it need not fork.
    Old jobs have no ledger, so each has a work horse, as with any `rq worker`.

    Always JSON and always the allow-list, whatever the command line says.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(job_class=AllowedJob, serializer=JSONSerializer, log_job_description=False)
        super().__init__(*args, **kwargs)
        for queue in self.queues:
            queue.serializer = JSONSerializer
            queue.job_class = AllowedJob
        settings = task.wired(os.getpid()).settings
        AllowedJob.legacy = Allowed.of(
            split(settings.legacy_functions), pickle=settings.legacy_pickle
        )
        self._old_jobs = bool(settings.legacy_functions)
        self._forked = False

    def work(self, *args: Any, **options: Any) -> bool:
        """See rq. With LEGACY_FUNCTIONS also as the scheduler: old jobs may wait for a time, or
        for their next try."""
        if self._old_jobs:
            options["with_scheduler"] = True
        return super().work(*args, **options)

    def _start_scheduler(self, burst: bool = False, *args: Any, **options: Any) -> None:
        if burst:  # looks once, in this process
            super()._start_scheduler(burst, *args, **options)
            return
        self.scheduler = Scheduler(
            self.queues, connection=self.connection, serializer=self.serializer
        )
        self.scheduler.acquire_locks()  # type: ignore[no-untyped-call]
        if self.scheduler.acquired_locks:
            self.scheduler.start()

    def stop_scheduler(self) -> None:
        """Let the scheduler end."""
        if isinstance(self.scheduler, Scheduler):
            self.scheduler.end()
        elif self.scheduler is not None:
            super().stop_scheduler()  # type: ignore[no-untyped-call]

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one job."""
        if isinstance(job, AllowedJob) and job.is_run:
            SimpleWorker.execute_job(self, job, queue)
            return
        self._forked = True
        try:
            super().execute_job(job, queue)
        finally:
            self._forked = False

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """How long it may be silent: while it does a run itself, as long as that may take."""
        if self._forked:
            return int(super().get_heartbeat_ttl(job, working_time))
        return int(SimpleWorker.get_heartbeat_ttl(self, job, working_time))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM: end the run in hand at its next step boundary, or with the process. An old job
        is waited for, as RQ does."""
        task.stopping.set()
        if not self._forked:
            deadline = threading.Timer(STOP_SECONDS, self._end)
            deadline.daemon = True
            deadline.start()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        log.warning("step still running %g s after SIGTERM; its run is left", STOP_SECONDS)
        os._exit(0)

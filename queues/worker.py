"""The RQ worker class of the Procfile: `rq worker` with an allow-list and a prompt stop."""

from __future__ import annotations

import logging
import os
import threading
from types import FrameType
from typing import Any

from rq import Queue, SimpleWorker
from rq import Worker as ForkingWorker
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from app.switchyard.config import split
from app.switchyard.loading import process_runtime
from queues import task
from queues.allowed import Allowed, AllowedJob

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0
"""How long a step in hand may go on after SIGTERM; then the process ends and the lease runs out."""
SCHEDULER_STOP_SECONDS = 5.0


class _Thread(threading.Thread):
    pid = None
    """RQ asks it of the process that it expects here; there is nothing to kill."""


class Scheduler(RQScheduler):
    """Ends with its worker, however that ends.

    RQ's own process outlives a worker that is killed, with the worker's socket still open: Redis
    then hands the next job to the dead worker, and that job is lost.
    """

    def __init__(self, queues: Any, **options: Any) -> None:
        super().__init__(queues, logging_level=logging.WARNING, **options)

    def start(self) -> threading.Thread:
        """Look once a second for what is due."""
        self._status = self.Status.STARTED
        self._connection = None
        thread = _Thread(target=self.work, name="scheduler", daemon=True)
        self._process: Any = thread
        thread.start()
        return thread

    def _install_signal_handlers(self) -> None:
        """The worker has them."""

    def end(self) -> None:
        """Give its locks back, so that another worker's goes on at once."""
        self._stop_requested = True
        if self._process is not None:
            self._process.join(SCHEDULER_STOP_SECONDS)


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
        settings = process_runtime().settings
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

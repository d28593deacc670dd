"""The worker class of the Procfile: `rq worker` with an allow-list that stops promptly."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq import Worker as ForkingWorker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp
from rq.worker import WorkerStatus

from app.switchyard import telemetry
from app.switchyard.config import split
from app.switchyard.errors import BackendUnavailable
from app.switchyard.logs import logger_of
from app.switchyard.operations.processes import Heartbeat, at_work
from app.switchyard.runtime import process_runtime
from app.switchyard.text import reason
from queues import task
from queues.allowed import WorkerJob
from queues.backend import MARK, is_wrong_type, queue_key, require_queue
from queues.batches import Batches, Sent
from queues.forks import keep_connections_apart
from queues.misplaced import put_aside
from queues.versions import LookAgain, StopRequested, forget_execution, now

log = logger_of(__name__)

STOP_SECONDS = 8.0
"""How long the current step may continue after SIGTERM. Then the process ends, and the lease runs
out."""
SCHEDULER_STOP_SECONDS = 5.0
REFUSED_SECONDS = 1.0
LOCKED_SECONDS = 60.0
"""How long a scheduler's locks last at least after its heartbeat."""
_DUE = 1000
_simple: Any = SimpleWorker
"""The class whose methods perform a job in this process. It cannot be a second base class: before
RQ 2.7 one of the two was the other's base."""


class Scheduler(RQScheduler):
    """RQ's scheduler in a thread of the worker, so that it ends when the worker does.

    RQ's own scheduler process outlives a killed worker and keeps its socket open: Redis then hands
    the next job to the dead worker, and that job is lost.
    """

    def start(self) -> threading.Thread:
        """Look for due jobs once a second."""
        self._status = self.Status.STARTED
        self._connection = None
        self._seen_at = time.monotonic()
        self._process: Any = threading.Thread(target=self.work, name="scheduler", daemon=True)
        self._process.start()
        return self._process

    def work(self) -> None:
        """See rq. What is in its way is put aside, and a Redis that refuses or is gone is waited
        for: RQ would end it until the worker's next maintenance, ten minutes later."""
        while True:
            if time.monotonic() - self._seen_at > LOCKED_SECONDS:
                # They may be another's by now, and before RQ 3.0 both would send what is due.
                self._acquired_locks, self.lock_acquisition_time = set(), None
            try:
                super().work()  # type: ignore[no-untyped-call]
                return
            except RedisError as failure:
                if self._stop_requested:
                    return
                log.warning("no due jobs are looked for", extra={"reason": reason(failure)})
                if is_wrong_type(failure):
                    self._put_aside()
            time.sleep(REFUSED_SECONDS)

    def heartbeat(self) -> None:
        """See rq."""
        super().heartbeat()  # type: ignore[no-untyped-call]
        self._seen_at = time.monotonic()

    def _put_aside(self) -> None:
        own = [self.key] if hasattr(self, "key") else []  # an older RQ's has no hash
        with suppress(RedisError):  # it is looked at again in the next turn
            put_aside(self.connection, self._queue_names, *own)

    def _install_signal_handlers(self) -> None:
        """Do nothing: the worker has signal handlers."""

    def enqueue_scheduled_jobs(self) -> None:
        """See rq. An unreadable job delays no other: it goes to a worker, which fails it."""
        for name in self.acquired_locks:
            key = ScheduledJobRegistry.key_template.format(name)
            for entry in self.connection.zrangebyscore(key, 0, current_timestamp(), 0, _DUE):
                if not self._is_readable(entry):
                    with self.connection.pipeline() as pipe:
                        pipe.zrem(key, entry)
                        pipe.rpush(queue_key(name), entry)
                        pipe.execute()
        super().enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]

    def _is_readable(self, entry: bytes) -> bool:
        try:
            job: Any = WorkerJob.fetch(entry.decode(), self.connection, self.serializer)
        except (NoSuchJobError, UnicodeDecodeError):
            return False
        return not job.refusal

    def end(self) -> None:
        """Release its locks, so that another worker's scheduler takes over at once."""
        self._stop_requested = True
        if self._process is not None:
            self._process.join(SCHEDULER_STOP_SECONDS)


class Worker(ForkingWorker):
    """Performs runs in its own process, without a fork: the ledger recovers what dies with it. Old
    jobs have no ledger, so each gets a work horse, as in any `rq worker`.

    It uses JSON and the allow-list, whatever the command line says.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(job_class=WorkerJob, serializer=JSONSerializer, log_job_description=False)
        super().__init__(*args, **kwargs)
        try:
            require_queue(self.connection)
        except BackendUnavailable as failure:
            raise SystemExit(f"switchyard: REDIS_URL: {failure}") from None
        for queue in self.queues:
            queue.serializer = JSONSerializer
            queue.job_class = WorkerJob
        settings = process_runtime().settings
        WorkerJob.legacy = frozenset(split(settings.legacy_functions))
        WorkerJob.legacy_pickle = settings.legacy_pickle
        keep_connections_apart()
        self._forked = False
        self._batches = Batches(self)
        self._one_by_one = False

    def register_birth(self) -> None:
        """See rq. The worker registers with the mark of one that can perform runs."""
        put_aside(self.connection, self.queue_names(), self.key)
        super().register_birth()  # type: ignore[no-untyped-call]
        self.connection.hset(self.key, MARK, 1)

    def serialize(self) -> dict[str, Any]:
        """What the worker registers again after its key has expired."""
        return {**super().serialize(), MARK: 1}

    def work(self, *args: Any, **options: Any) -> bool:
        """See rq. With LEGACY_FUNCTIONS the worker is a scheduler too, since old jobs may wait for
        a time or for a retry."""
        self._one_by_one = options.get("max_jobs") is not None
        if WorkerJob.legacy:
            options["with_scheduler"] = True
        runtime = process_runtime()
        with Heartbeat(runtime.db, "worker") as heartbeat:
            heartbeat.keep(lambda: at_work(runtime.engine.leases))
            return super().work(*args, **options)

    def _start_scheduler(self, burst: bool = False, *args: Any, **options: Any) -> None:
        if burst:  # looks once, in this process
            super()._start_scheduler(burst, *args, **options)
            return
        common: dict[str, Any] = {"connection": self.connection, "serializer": self.serializer}
        self.scheduler = Scheduler(self.queues, logging_level=logging.WARNING, **common)
        self.scheduler.acquire_locks()  # type: ignore[no-untyped-call]
        if self.scheduler.acquired_locks:
            self.scheduler.start()

    def stop_scheduler(self) -> None:
        """Stop the scheduler."""
        if isinstance(self.scheduler, Scheduler):
            self.scheduler.end()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """See rq. An id that is not UTF-8 is dropped, and what is not a list is put aside. A Redis
        that refuses (its disk or memory is full, it is a replica now) or is gone is waited for."""
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except UnicodeDecodeError as failure:
                log.error("no job's id: dropped", extra={"rq_job": ascii(failure.object)[:200]})
                for queue in self.queues:
                    self.connection.lrem(queue.intermediate_queue_key, 1, failure.object)  # type: ignore[arg-type]
            except RedisError as failure:
                wrong = is_wrong_type(failure)
                if wrong and self._put_aside():
                    continue
                if wrong or timeout is None:  # with --burst it waits for nothing
                    raise
                log.error("Redis refuses", extra={"reason": reason(failure)})
                time.sleep(REFUSED_SECONDS)

    def _put_aside(self) -> bool:
        """Rename what is in its way. Whether anything was."""
        try:
            was = put_aside(self.connection, self.queue_names(), self.key)
            if was and not self.connection.exists(self.key):
                self.register_birth()
        except RedisError as failure:
            log.warning("not put aside", extra={"reason": reason(failure)})
            return False
        return was

    def run_maintenance_tasks(self) -> None:
        """See rq."""
        with self._contained("maintenance"), self._outlived():
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        self.last_cleaned_at: Any = now()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Perform one job."""
        with self._contained(job.id):
            assert isinstance(job, WorkerJob)
            if job.run is not None:
                with self._outlived():
                    self._do_runs(job, job.run, queue)
            elif job.in_process:
                _simple.execute_job(self, job, queue)
            else:
                self._forked = True
                try:
                    super().execute_job(job, queue)
                finally:
                    self._forked = False

    def _do_runs(self, job: Job, first: Sent, queue: Queue) -> None:
        began = time.monotonic()
        with self._outlived():
            self.set_state(WorkerStatus.BUSY)
            with self.connection.pipeline(transaction=False) as pipe:
                pipe.delete(job.key)
                pipe.lrem(queue.intermediate_queue_key, 1, job.id)
                pipe.execute(raise_on_error=False)
        done = self._batches.work(first, alone=self._one_by_one)
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hincrby(self.key, "successful_job_count", done)
            pipe.hincrbyfloat(self.key, "total_working_time", time.monotonic() - began)
            self.set_state(WorkerStatus.IDLE, pipeline=pipe)
            pipe.execute()

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """See rq."""
        with self._outlived():
            super().heartbeat(*args, **kwargs)

    def check_for_suspension(self, burst: bool) -> None:
        """See rq."""
        with self._outlived():
            super().check_for_suspension(burst)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        """RQ waits for Redis where it asks for the next job, and ends the worker elsewhere. What
        fails in here is made good by the ledger or by the next turn."""
        try:
            yield
        except RedisError as failure:
            log.warning("gone on without Redis", extra={"reason": reason(failure)})
            if is_wrong_type(failure):
                self._put_aside()

    @contextmanager
    def _contained(self, what: str) -> Iterator[None]:
        """Skip a job that RQ's own code cannot process because of what Redis holds. RQ would end
        the worker."""
        try:
            yield
        except StopRequested:
            raise
        except Exception as failure:
            if isinstance(failure, RedisError) and not is_wrong_type(failure):
                raise
            forget_execution(self)
            log.exception("left as it is", extra={"rq_job": what})
            if is_wrong_type(failure):
                self._put_aside()

    def perform_job(self, *args: Any, **kwargs: Any) -> bool:
        """See rq. A work horse ends at once."""
        try:
            return bool(super().perform_job(*args, **kwargs))
        finally:
            if self._forked:
                telemetry.spans.flush()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """See rq."""
        if not isinstance(exc_info[1], LookAgain):
            super().handle_exception(job, *exc_info)

    def get_heartbeat_ttl(self, job: Job, *working_time: Any, **named: Any) -> int:
        """How long the worker may be silent: as long as its current run may take."""
        if self._forked:
            return int(super().get_heartbeat_ttl(job, *working_time, **named))
        return int(_simple.get_heartbeat_ttl(self, job))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM, stop the current run at its next step boundary, or with the process. An old
        job is waited for, as in RQ."""
        task.stopping.set()
        if not self._forked:
            deadline = threading.Timer(STOP_SECONDS, self._end)
            deadline.daemon = True
            deadline.start()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        log.warning("step still running %g s after SIGTERM; its run is left", STOP_SECONDS)
        os._exit(0)

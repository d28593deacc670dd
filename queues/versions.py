"""The differences between the supported versions of RQ, 1.16 to 3. No other file knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rq
from rq import Retry, defaults, get_current_job
from rq import job as rq_job
from rq.job import Job, JobStatus
from rq.version import VERSION

from app.switchyard.errors import BadInput, SwitchyardError

_SINCE = {"group_id": "2.0", "unique": "2.8"}
"""Options of the drop-in's Queue methods, and the version of RQ that introduced each."""
_INSTALLED: tuple[int, ...] = tuple(int(part) for part in VERSION.split(".")[:2])

REFUSES_SAME_IDS = _INSTALLED >= (3, 0)
"""Whether enqueue_many() refuses a repeated job_id."""
KEY_PREFIX: str = getattr(defaults, "RQ_KEY_PREFIX", "rq")
CRON_SCHEDULERS = f"{KEY_PREFIX}:cron_schedulers"
CRON_SCHEDULER = f"{KEY_PREFIX}:cron_scheduler:"
"""Where `rq cron` of RQ 2.4 and later keeps its jobs, whichever version is installed."""

if TYPE_CHECKING:
    from rq.exceptions import DuplicateJobError as DuplicateJobError
    from rq.exceptions import StopRequested as StopRequested
    from rq.job import JOB_ID_PATTERN as JOB_ID_PATTERN
    from rq.job import parse_job_id as parse_job_id
    from rq.utils import now as now
else:
    try:
        from rq.exceptions import StopRequested  # 2.6
    except ImportError:
        from rq.worker import StopRequested as StopRequested
    try:
        from rq.exceptions import DuplicateJobError  # 2.8
        from rq.job import JOB_ID_PATTERN
    except ImportError:
        JOB_ID_PATTERN = re.compile(r"[^\x00-\x1f]+")

        class DuplicateJobError(Exception):
            """The job_id of a unique job is in use."""

    try:
        from rq.utils import utcnow as now  # 1, without a zone
    except ImportError:
        from rq.utils import now as now
    try:
        from rq.job import parse_job_id  # 2.0
    except ImportError:

        def parse_job_id(job_id: str) -> str:
            """Do nothing: this version has no executions."""
            return job_id


class NeedsNewerRQ(BadInput):
    """The installed RQ does not have this option."""


def options(**given: Any) -> dict[str, Any]:
    """Those options that are not empty, to be passed to a method of RQ's.

    Raises NeedsNewerRQ where the installed RQ lacks one of them.
    """
    asked = {name: value for name, value in given.items() if value}
    for name in asked:
        since = _SINCE[name]
        if tuple(map(int, since.split("."))) > _INSTALLED:
            raise NeedsNewerRQ(f"{name} needs RQ {since} or later, and {VERSION} is installed")
    return asked


def extras_of(job: Job) -> Mapping[str, bool]:
    """Which options of later versions a job was given."""
    return {
        "webhooks": bool(getattr(job, "webhooks", None)),
        "repeat": bool(getattr(job, "repeats_left", None)),
        "rate_limit": bool(getattr(job, "has_rate_limit", False)),
        "group": bool(getattr(job, "group_id", None)),
    }


def enqueue_once(queue: rq.Queue, path: str, *args: Any, job_id: str) -> None:
    """Enqueue a task that only looks, unless a job with that id exists.

    Before RQ 2.8 two processes may both enqueue it, which makes it look twice.
    """
    unique = {"unique": True} if _INSTALLED >= (2, 8) else {}
    with suppress(DuplicateJobError):
        queue.enqueue(path, *args, job_id=job_id, **unique)


def time_of(at: datetime) -> datetime:
    """A time of the ledger as RQ's jobs have it: in RQ 1, UTC without a zone."""
    return at if _INSTALLED >= (2, 0) else at.astimezone(UTC).replace(tzinfo=None)


def status_of(status: JobStatus) -> JobStatus:
    """A status as get_status() has it: in RQ 1, plain text."""
    text: Any = status.value
    return status if _INSTALLED >= (2, 0) else text


class LookAgain(SwitchyardError):
    """Not a failure: with an older RQ this is how a task asks to be run again."""


def again(seconds: int) -> Retry:
    """What a task returns to be run again in `seconds`, as often as it returns it.

    Before RQ 2.1 a returned Retry is a result like any other. There this raises LookAgain, which
    RQ treats as a failure with one more try.
    """
    if _INSTALLED >= (2, 1):
        return Retry(max=10**8, interval=seconds)
    job = get_current_job()
    assert job is not None
    job.retries_left, job.retry_intervals = 1, [seconds]
    raise LookAgain(f"again in {seconds} s")


def asks_again(result: Any) -> bool:
    """Whether RQ would run a job again that returned this. Before 2.1 it is a result like any."""
    return isinstance(result, Retry) and _INSTALLED >= (2, 1)


@contextmanager
def at_work(job: Job) -> Iterator[None]:
    """Make `rq.get_current_job()` return `job` inside the block."""
    stack = getattr(rq_job, "_job_stack", None)  # before RQ had a context variable
    token = rq_job._current_job.set(job) if stack is None else stack.push(job)
    try:
        yield
    finally:
        rq_job._current_job.reset(token) if stack is None else stack.pop()


def forget_execution(worker: Any) -> None:
    """Make a worker believe that it runs nothing."""
    if hasattr(worker, "executions"):
        worker.executions.clear()
    else:
        worker.execution = None

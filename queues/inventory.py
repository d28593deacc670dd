"""What RQ has in a live Redis: jobs by queue, status and function, cron jobs, and old call sites.

It only reads, and opens no pickle.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job
from rq.queue import Queue
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from app.switchyard.logs import logger_of
from app.switchyard.text import reason
from queues.backend import (
    RegisteredWorker,
    answered,
    call_of,
    connect,
    is_pickled,
    queue_key,
    registered_workers,
)
from queues.versions import CRON_SCHEDULER, CRON_SCHEDULERS, parse_job_id

log = logger_of(__name__)

_REGISTRIES: dict[str, type[BaseRegistry]] = {
    "scheduled": ScheduledJobRegistry,
    "started": StartedJobRegistry,
    "deferred": DeferredJobRegistry,
    "failed": FailedJobRegistry,
    "finished": FinishedJobRegistry,
}
STATUSES = ("queued", *_REGISTRIES)
PICKLED, GONE, UNREADABLE = "(pickled)", "(gone)", "(unreadable)"
RQ_SCHEDULER, _RQ_SCHEDULER_KEY = "(rq-scheduler)", "rq:scheduler:scheduled_jobs"
"""The package of this name keeps future jobs of all queues in a set of its own."""
CALL_SITES = "switchyard:call-sites"
"""A hash from `["function", "rq" or "dispatched", "why"]` to a count."""
FLUSH_SECONDS = 5.0
_CALLBACKS = [f"{when}_callback_name" for when in ("success", "failure", "stopped")]
_MOST_CALLS = 1000
_CHUNK = 200
_HEAD_BYTES = 4096
"""The function's name comes first."""


@dataclass(slots=True)
class QueueInventory:
    """One queue."""

    name: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """All jobs, by status."""
    functions: dict[str, Counter[str]] = field(default_factory=dict)
    """The jobs that were looked at, by function and status."""
    pickled: int = 0
    looked_at: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one Redis holds."""

    queues: list[QueueInventory]
    workers: list[RegisteredWorker]
    cron: list[dict[str, Any]]
    """The jobs of running `rq cron` processes, as RQ keeps them."""
    call_sites: list[dict[str, Any]]


def take(url: str, most: int) -> Inventory:
    """Look at every queue, and at no more than `most` jobs in each status.

    Raises BackendUnavailable.
    """
    redis = connect(url)
    with closing(redis), answered():
        keys = {_text(key) for key in redis.sscan_iter(Queue.redis_queues_keys, count=_CHUNK)}
        workers = registered_workers(redis)
        served = {queue_key(queue) for worker in workers for queue in worker.queues}
        # RQ 2.0 and 2.1 register no queue that is filled by enqueue_many() alone.
        keys |= {key for key in served if redis.exists(key)}
        queues = []
        for name in sorted(key.removeprefix(queue_key("")) for key in keys):
            queue = QueueInventory(name)
            _count(redis, queue, "queued", queue_key(name), most)
            for status, registry in _REGISTRIES.items():
                _count(redis, queue, status, registry.key_template.format(name), most)
            queues.append(queue)
        elsewhere = QueueInventory(RQ_SCHEDULER)
        _count(redis, elsewhere, "scheduled", _RQ_SCHEDULER_KEY, most)
        queues += [elsewhere] if elsewhere.looked_at else []
        return Inventory(queues, workers, _cron(redis), counted(redis))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _count(redis: Redis, queue: QueueInventory, status: str, key: str, most: int) -> None:
    listed = status == "queued"
    count, read = (redis.llen, redis.lrange) if listed else (redis.zcard, redis.zrange)
    queue.counts[status] = int(count(key))
    for start in range(0, min(most, queue.counts[status]), _CHUNK):
        ids: Any = read(key, start, min(start + _CHUNK, most) - 1)
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(Job.key_for(parse_job_id(_text(job_id))), "data", *_CALLBACKS)
            rows = pipe.execute(raise_on_error=False)
        queue.looked_at += len(rows)
        for data, *callbacks in (row if isinstance(row, list) else [row] for row in rows):
            for name in (function_of(data), *(_text(one) for one in callbacks if one)):
                queue.functions.setdefault(name, Counter())[status] += 1
            queue.pickled += isinstance(data, bytes) and is_pickled(call_of(data, 1))


def function_of(stored: object) -> str:
    """The function that a job's stored data names, or why that cannot be told."""
    if not isinstance(stored, bytes):
        return GONE if stored is None else UNREADABLE
    head = call_of(stored, _HEAD_BYTES)
    if is_pickled(head):
        return _function_in_pickle(head)
    text = _text(head)
    try:
        name, _ = json.JSONDecoder().raw_decode(text, 1 if text.startswith("[") else 0)
    except ValueError:
        return UNREADABLE
    return name if isinstance(name, str) else UNREADABLE


def _function_in_pickle(head: bytes) -> str:
    """The text at the start of a pickled call. It is read as bytes, and nothing is unpickled."""
    try:
        for opcode, value, _ in pickletools.genops(head):
            if opcode.name not in ("PROTO", "FRAME", "MARK"):
                # A method has no dot. The object it belongs to comes later.
                return value if isinstance(value, str) and "." in value else PICKLED
    except ValueError:
        return PICKLED
    return PICKLED


def _cron(redis: Redis) -> list[dict[str, Any]]:
    names: Any = redis.zrange(CRON_SCHEDULERS, 0, -1)
    jobs: list[dict[str, Any]] = []
    for name in names:
        stored: Any = redis.hget(f"{CRON_SCHEDULER}{_text(name)}", "cron_jobs")
        try:
            jobs += [job for job in json.loads(stored or "[]") if isinstance(job, dict)]
        except (ValueError, TypeError):
            log.warning("a cron scheduler's jobs cannot be read", extra={"scheduler": _text(name)})
    return jobs


class CallSites:
    """How often old call sites enqueued each function, and where the calls went.

    Calls are counted in the process and written to Redis at most every FLUSH_SECONDS, so that an
    enqueue needs no extra round trip. A killed process loses the counts since the last write.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._flush_at = 0.0

    def note(self, function: str, went: str, why: str) -> None:
        """Count one call."""
        call = json.dumps([function, went, why])
        with self._lock:
            if call not in self._counts and len(self._counts) >= _MOST_CALLS:
                call = json.dumps(["(others)", went, ""])
            self._counts[call] += 1

    def flush(self, redis: Redis) -> None:
        """Write the counts, if it is time. Where Redis fails only the counts are lost."""
        if time.monotonic() < self._flush_at:
            return
        with self._lock:
            self._flush_at = time.monotonic() + FLUSH_SECONDS
            counts, self._counts = self._counts, Counter()
        try:
            with redis.pipeline(transaction=False) as pipe:
                for call, count in counts.items():
                    pipe.hincrby(CALL_SITES, call, count)
                pipe.execute()
        except RedisError as failure:
            log.warning("call sites not counted", extra={"reason": reason(failure)})

    @contextmanager
    def unwritten(self) -> Iterator[None]:
        """Write nothing inside the block, for tests, which have no Redis."""
        before, self._flush_at = self._flush_at, math.inf
        try:
            yield
        finally:
            self._flush_at = before

    def forget(self) -> None:
        """Forget the counts. A forked child inherits its parent's, which the parent writes."""
        self._lock = threading.Lock()
        self._counts = Counter()


call_sites = CallSites()
os.register_at_fork(after_in_child=call_sites.forget)


def counted(redis: Redis, most: int = 10_000) -> list[dict[str, Any]]:
    """The call sites counted so far, most frequent first."""
    rows = []
    for call, count in redis.hscan_iter(CALL_SITES, count=500):
        function, went, why = json.loads(call)
        rows.append({"function": function, "went": went, "why": why, "count": int(count)})
        if len(rows) >= most:
            break
    return sorted(rows, key=lambda row: (-row["count"], row["function"]))

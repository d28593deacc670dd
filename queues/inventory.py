"""What is in RQ's Redis, by queue, place and function, and which call sites put it there.

Calls are counted in the process and written to Redis at most every FLUSH_SECONDS, so that an
enqueue waits for no round trip of its own. A process that is killed loses what it counted since.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job, parse_job_id
from rq.queue import Queue
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from queues.backend import TASK, answered, call_of, connect, is_pickled

log = logging.getLogger(__name__)

PLACES = ("queued", "scheduled", "started", "deferred", "failed")
_REGISTRIES: dict[str, type[BaseRegistry]] = {
    "scheduled": ScheduledJobRegistry,
    "started": StartedJobRegistry,
    "deferred": DeferredJobRegistry,
    "failed": FailedJobRegistry,
}
_CHUNK = 200
_HEAD_BYTES = 4096
"""The function's name comes first."""
PICKLED, GONE, UNREADABLE = "(pickled)", "(gone)", "(unreadable)"
KEY = "switchyard:call-sites"
"""A hash: `["function", "rq" or "dispatched", "why"]` to how often."""
FLUSH_SECONDS = 5.0
_MOST = 1000
_OTHERS = "(others)"


@dataclass(slots=True)
class QueueCensus:
    """One queue."""

    name: str
    counts: dict[str, int]
    """By place: all of them."""
    functions: dict[str, Counter[str]] = field(default_factory=dict)
    """By function: how many in which place, of those that were looked at."""
    looked_at: int = 0


def census(url: str, most: int) -> tuple[list[QueueCensus], list[dict[str, Any]]]:
    """Every queue, and the call sites counted; at most `most` jobs of each place are looked at.

    Raises BackendUnavailable.
    """
    redis = connect(url)
    with closing(redis), answered():
        return [_queue(redis, name, most) for name in _names(redis)], counted(redis)


def _names(redis: Redis) -> list[str]:
    prefix = Queue.redis_queue_namespace_prefix
    keys = {key.decode() for key in redis.sscan_iter(Queue.redis_queues_keys, count=_CHUNK)}
    return sorted(key.removeprefix(prefix) for key in keys)


def _queue(redis: Redis, name: str, most: int) -> QueueCensus:
    found = QueueCensus(name, {})
    keys = {"queued": f"{Queue.redis_queue_namespace_prefix}{name}"}
    for place, registry in _REGISTRIES.items():
        keys[place] = registry.key_template.format(name)
    for place, key in keys.items():
        listed = place == "queued"
        found.counts[place] = int(redis.llen(key) if listed else redis.zcard(key))
        for ids in _ids(redis, key, min(most, found.counts[place]), listed=listed):
            found.looked_at += len(ids)
            for function in _functions(redis, ids):
                found.functions.setdefault(function, Counter())[place] += 1
    return found


def _ids(redis: Redis, key: str, most: int, *, listed: bool) -> Iterator[list[str]]:
    read: Any = redis.lrange if listed else redis.zrange
    for start in range(0, most, _CHUNK):
        yield [parse_job_id(id.decode()) for id in read(key, start, min(start + _CHUNK, most) - 1)]


def _functions(redis: Redis, ids: list[str]) -> list[str]:
    with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(Job.key_for(job_id), "data")
        return [function_of(data) for data in pipe.execute()]


def function_of(stored: bytes | None) -> str:
    """The function that a job's stored data names, or why that cannot be said."""
    if stored is None:
        return GONE
    head = call_of(stored, _HEAD_BYTES)
    if is_pickled(head):
        return PICKLED
    text = head.decode(errors="replace")
    try:
        name, _ = json.JSONDecoder().raw_decode(text, 1 if text.startswith("[") else 0)
    except ValueError:
        return UNREADABLE
    return name if isinstance(name, str) else UNREADABLE


def is_ours(function: str) -> bool:
    """Whether it carries runs of the ledger."""
    return function == TASK


class CallSites:
    """The counts of one process that are not in Redis yet."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._flush_at = 0.0

    def note(self, function: str, went: str, why: str) -> None:
        """Count one call."""
        field = json.dumps([function, went, why])
        with self._lock:
            if field not in self._counts and len(self._counts) >= _MOST:
                field = json.dumps([_OTHERS, went, ""])
            self._counts[field] += 1

    def flush(self, redis: Redis) -> None:
        """Write the counts, if it is time; a Redis that fails costs the counts and nothing else."""
        if time.monotonic() < self._flush_at:
            return
        with self._lock:
            self._flush_at = time.monotonic() + FLUSH_SECONDS
            counts, self._counts = self._counts, Counter()
        try:
            with redis.pipeline(transaction=False) as pipe:
                for field, count in counts.items():
                    pipe.hincrby(KEY, field, count)
                pipe.execute()
        except RedisError as failure:
            log.warning("call sites not counted", extra={"reason": type(failure).__name__})

    def forget(self) -> None:
        """Begin anew: a forked child has its parent's counts, which the parent writes."""
        self._lock = threading.Lock()
        self._counts = Counter()


call_sites = CallSites()
os.register_at_fork(after_in_child=call_sites.forget)


def counted(redis: Redis, most: int = 10_000) -> list[dict[str, Any]]:
    """What was counted so far, the most frequent first."""
    found = []
    for call, count in redis.hscan_iter(KEY, count=500):
        function, went, why = json.loads(call)
        found.append({"function": function, "went": went, "why": why, "count": int(count)})
        if len(found) >= most:
            break
    return sorted(found, key=lambda row: (-row["count"], row["function"]))

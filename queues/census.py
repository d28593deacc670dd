"""What is in RQ's Redis, by queue, place and function. Read only, and no pickle is opened."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from rq.job import Job, parse_job_id
from rq.queue import Queue
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from queues.backend import TASK, answered, connect
from queues.callsites import counted
from queues.legacy import is_pickled

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
    try:
        head = zlib.decompressobj().decompress(stored, _HEAD_BYTES)
    except zlib.error:
        head = stored[:_HEAD_BYTES]
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

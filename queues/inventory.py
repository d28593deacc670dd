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
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import TypeAdapter
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from rq.job import Job
from rq.queue import Queue
from rq.worker_registration import REDIS_WORKER_KEYS

from app.switchyard.logs import logger_of
from app.switchyard.text import reason
from queues.backend import (
    RegisteredWorker,
    answered,
    call_of,
    connect,
    is_pickled,
    is_wrong_type,
    queue_key,
    registered_workers,
)
from queues.misplaced import REGISTRIES
from queues.versions import CRON_SCHEDULER, CRON_SCHEDULERS, parse_job_id

log = logger_of(__name__)

STATUSES = ("queued", *REGISTRIES)
PICKLED, GONE, UNREADABLE = "(pickled)", "(gone)", "(unreadable)"
RQ_SCHEDULER, _RQ_SCHEDULER_KEY = "(rq-scheduler)", "rq:scheduler:scheduled_jobs"
"""The package of this name keeps future jobs of all queues in a set of its own."""
WORKERS = REDIS_WORKER_KEYS
"""The set of registered workers."""
CALL_SITES = "switchyard:call-sites"
"""A hash from `["function", "rq" or "dispatched", "why"]` to a count."""
MOST_CALL_SITES = 10_000
"""How many of them are listed, since anybody may have written more."""
FLUSH_SECONDS = 5.0
_CALL_SITE = TypeAdapter(tuple[str, str, str])
_CRON_JOBS = TypeAdapter(list[dict[str, Any]])
_CALLBACKS = [f"{when}_callback_name" for when in ("success", "failure", "stopped")]
_STAYS = [*_CALLBACKS, "dependency_ids", "ttl", "repeats_left", "rate_limit_key", "group_id"]
_STAYS += ["webhooks"]
"""The fields of a job that stays on RQ, whoever enqueues it."""
_MOST_CALLS = 1000
_CHUNK = 200
_HEAD_BYTES = 4096
"""The function's name comes first."""
_LONGEST_NAME = 300
"""How much of a function's or callback's name is shown, since anybody may have written it."""


@dataclass(slots=True)
class QueueInventory:
    """One queue."""

    name: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """All jobs, by status."""
    functions: dict[str, Counter[str]] = field(default_factory=dict)
    """The jobs that were looked at, by function and status."""
    stay: Counter[str] = field(default_factory=Counter)
    """Those of `functions` that have not failed and have an option for which they stay on RQ."""
    pickled: int = 0
    looked_at: int = 0


@dataclass(slots=True)
class Inventory:
    """What one Redis holds."""

    queues: list[QueueInventory] = field(default_factory=list)
    workers: list[RegisteredWorker] = field(default_factory=list)
    cron: list[dict[str, Any]] = field(default_factory=list)
    """The jobs of running `rq cron` processes, as RQ keeps them."""
    call_sites: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Keys that hold what RQ does not keep there, or that this user may not read, and why."""

    @contextmanager
    def naming(self, key: str | bytes) -> Iterator[None]:
        """Name the key where what it holds cannot be read, so that it hides no other."""
        try:
            yield
        except (ResponseError, ValueError) as failure:
            refused = isinstance(failure, ResponseError)
            if refused and not (isinstance(failure, NoPermissionError) or is_wrong_type(failure)):
                raise
            self.unreadable[_text(key)] = reason(failure)


def take(url: str, most: int) -> Inventory:
    """Look at every queue, and at no more than `most` jobs in each status.

    Raises BackendUnavailable.
    """
    redis = connect(url)
    seen = Inventory()
    with closing(redis), answered():
        keys: set[bytes] = set()
        with seen.naming(Queue.redis_queues_keys):
            keys.update(redis.sscan_iter(Queue.redis_queues_keys, count=_CHUNK))
        with seen.naming(WORKERS):
            seen.workers = registered_workers(redis)
        # RQ 2.0 and 2.1 register no queue that is filled by enqueue_many() alone.
        for served in {queue_key(queue) for worker in seen.workers for queue in worker.queues}:
            with seen.naming(served):
                keys |= {served.encode()} if redis.exists(served) else set()
        for key in sorted(keys):
            with seen.naming(key):
                name = key.decode().removeprefix(queue_key(""))
                kept = {of: each.key_template.format(name) for of, each in REGISTRIES.items()}
                places = {"queued": queue_key(name), **kept}
                seen.queues.append(_queue(redis, seen, name, places, most))
        elsewhere = _queue(redis, seen, RQ_SCHEDULER, {"scheduled": _RQ_SCHEDULER_KEY}, most)
        seen.queues += [elsewhere] if elsewhere.looked_at else []
        _cron(redis, seen)
        _call_sites(redis, seen)
    return seen


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _queue(
    redis: Redis, seen: Inventory, name: str, places: Mapping[str, str], most: int
) -> QueueInventory:
    queue = QueueInventory(name)
    for status, key in places.items():
        with seen.naming(key):
            _count(redis, queue, status, key, most)
    return queue


def _count(redis: Redis, queue: QueueInventory, status: str, key: str, most: int) -> None:
    listed = status == "queued"
    count, read = (redis.llen, redis.lrange) if listed else (redis.zcard, redis.zrange)
    queue.counts[status] = int(count(key))
    for start in range(0, min(most, queue.counts[status]), _CHUNK):
        ids: Any = read(key, start, min(start + _CHUNK, most) - 1)
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(Job.key_for(parse_job_id(_text(job_id))), "data", *_STAYS)
            rows = pipe.execute(raise_on_error=False)
        queue.looked_at += len(rows)
        for data, *options in (row if isinstance(row, list) else [row] for row in rows):
            function, callbacks = function_of(data), options[: len(_CALLBACKS)]
            queue.stay[function] += status != "failed" and any(options)
            for name in (function, *(_text(one) for one in callbacks if one)):
                queue.functions.setdefault(name[:_LONGEST_NAME], Counter())[status] += 1
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
    except (ValueError, RecursionError):
        return UNREADABLE
    return name if isinstance(name, str) else UNREADABLE


def _function_in_pickle(head: bytes) -> str:
    """The text at the start of a pickled call. It is read as bytes, and nothing is unpickled."""
    with suppress(ValueError):
        for opcode, value, _ in pickletools.genops(head):
            if opcode.name not in ("PROTO", "FRAME", "MARK"):
                # A method has no dot. The object it belongs to comes later.
                return value if isinstance(value, str) and "." in value else PICKLED
    return PICKLED


def _cron(redis: Redis, seen: Inventory) -> None:
    names: Any = []
    with seen.naming(CRON_SCHEDULERS):
        names = redis.zrange(CRON_SCHEDULERS, 0, -1)
    for name in names:
        key = CRON_SCHEDULER.encode() + name
        with seen.naming(key):
            stored: Any = redis.hget(key, "cron_jobs")
            seen.cron += _CRON_JOBS.validate_json(stored or "[]")


def _call_sites(redis: Redis, seen: Inventory) -> None:
    """The call sites counted so far, most frequent first, of the first MOST_CALL_SITES."""
    with seen.naming(CALL_SITES):
        for call, count in islice(redis.hscan_iter(CALL_SITES, count=_CHUNK), MOST_CALL_SITES):
            with seen.naming(CALL_SITES):
                function, went, why = _CALL_SITE.validate_json(call)
                row = {"function": function, "went": went, "why": why, "count": int(count)}
                seen.call_sites.append(row)
    seen.call_sites.sort(key=lambda row: (-row["count"], row["function"]))


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

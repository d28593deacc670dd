"""What lies under one of RQ's own keys and is of another type: RQ's workers end at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.scheduler import RQScheduler
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from app.switchyard.logs import logger_of

log = logger_of(__name__)

ASIDE = "switchyard:misplaced:"
"""What it is kept under, for a person to look at."""
REGISTRIES: dict[str, type[BaseRegistry]] = {
    "scheduled": ScheduledJobRegistry,
    "started": StartedJobRegistry,
    "deferred": DeferredJobRegistry,
    "failed": FailedJobRegistry,
    "finished": FinishedJobRegistry,
}
"""RQ's own sets of jobs, by the status of the jobs in them."""


def put_aside(redis: Redis, queues: Iterable[Queue], *hashes: str) -> bool:
    """Rename what is in the way of these queues' workers, or of the `hashes` of one of them;
    whether anything was. Raises RedisError.

    The jobs that were there before it came are gone: it took their place. Runs are sent again.
    """
    wanted = dict.fromkeys(hashes, b"hash")
    wanted |= {REDIS_WORKER_KEYS: b"set", Queue.redis_queues_keys: b"set"}
    for queue in queues:
        wanted[queue.key] = wanted[queue.intermediate_queue_key] = b"list"
        wanted[WORKERS_BY_QUEUE_KEY % queue.name] = b"set"
        wanted[RQScheduler.get_locking_key(queue.name)] = b"string"
        wanted |= {of.key_template.format(queue.name): b"zset" for of in REGISTRIES.values()}
    with redis.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.type(key)
        try:
            kinds: list[Any] = pipe.execute()
        except ResponseError:
            return False  # it may not be asked, and RQ itself does not ask
    misplaced = [
        key
        for (key, kind), found in zip(wanted.items(), kinds, strict=True)
        if found not in (kind, b"none")
    ]
    for key in misplaced:
        try:
            redis.rename(key, ASIDE + key)
        except ResponseError as failure:
            if "no such key" not in str(failure):
                raise
            continue  # another worker has just put it aside
        log.error("not what RQ keeps there: put aside", extra={"key": key, "now": ASIDE + key})
    return bool(misplaced)

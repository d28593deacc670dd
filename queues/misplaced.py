"""What lies under one of RQ's own keys and is of another type: RQ's workers end at it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import uuid4

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


def put_aside(redis: Redis, names: Iterable[str], *hashes: str) -> bool:
    """Rename what is in the way of these queues' workers, or of the `hashes` of one of them;
    whether anything was. Raises RedisError.

    The jobs that were there before it came are gone: it took their place. Runs are sent again.
    """
    wanted = dict.fromkeys(hashes, "hash")
    wanted |= {REDIS_WORKER_KEYS: "set", Queue.redis_queues_keys: "set"}
    for name in names:
        queue = Queue(name, connection=redis)
        wanted[queue.key] = wanted[queue.intermediate_queue_key] = "list"
        wanted[WORKERS_BY_QUEUE_KEY % name] = "set"
        wanted[RQScheduler.get_locking_key(name)] = "string"
        wanted |= {of.key_template.format(name): "zset" for of in REGISTRIES.values()}
    with redis.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.type(key)
        try:
            types: list[Any] = pipe.execute()
        except ResponseError:
            return False  # it may not be asked, and RQ itself does not ask
    misplaced = [
        (key, kind)
        for (key, kind), found in zip(wanted.items(), types, strict=True)
        if _is_misplaced(found, kind)
    ]
    for key, kind in misplaced:
        rename: Any = partial(_rename, key, kind)  # the library's type has no result
        aside = redis.transaction(rename, key, value_from_callable=True)
        if aside is not None:
            log.error("not what RQ keeps there: put aside", extra={"key": key, "now": aside})
    return bool(misplaced)


def _is_misplaced(found: bytes | str, kind: str) -> bool:
    name = found if isinstance(found, str) else found.decode()  # as the client was set up
    return name not in (kind, "none")


def _rename(key: str, kind: str, pipe: Any) -> str | None:
    """Rename the key, which `pipe` watches, and return its new name. None where it holds what it
    should by now: another process was first, and RQ may have written since."""
    if not _is_misplaced(pipe.type(key), kind):
        return None
    aside = f"{ASIDE}{key}"
    if pipe.exists(aside):  # from an earlier time, and not to be lost
        aside = f"{aside}:{uuid4().hex}"
    pipe.multi()
    pipe.rename(key, aside)
    return aside

"""The RQ backend: one RQ job per message, in RQ's own format, and many in one round trip."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    RedisError,
    ResponseError,
)
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.utils import utcformat
from rq.worker_registration import REDIS_WORKER_KEYS

from app.switchyard.errors import BackendUnavailable, SettingsError
from app.switchyard.job import JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Message
from app.switchyard.runs.store import chunks
from app.switchyard.text import reason
from queues.misplaced import put_aside
from queues.versions import KEY_PREFIX

log = logger_of(__name__)
Answer = TypeVar("Answer")

TASK = f"{__package__}.task.perform"
"""The function that a run's RQ job names."""
DEPENDENCY = f"{__package__}.task.wait_for_run"
"""The function of an RQ job on which others depend in place of a run."""
WORKER_COMMAND = "flask switchyard worker"
"""What to start in place of an old `rq worker`."""
MARK = "switchyard"
"""The field that marks a registered worker as one of this layer's, since RQ stores no class."""
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
FAILURE_TTL_SECONDS = 7 * 24 * 3600
WARN_SECONDS = 60.0
CLUSTER = "it is a Redis Cluster, and RQ needs one server with all keys: name one in REDIS_URL"
_OF_A_CLUSTER = (AskError, ClusterCrossSlotError, ClusterDownError)  # MOVED is one of the first
_AT_ONCE = 500
"""How many messages one call sends. It occupies Redis for a few milliseconds."""
_PICKLE = b"\x80"
"""The first byte of every pickle of protocol 2 or later, and of no JSON."""
# One call sends many messages and gets only what differs between them: packing all of RQ's fields
# took most of the time. A key of another type that is in the way of one job must not stop the
# others. The trace has a field of its own, since RQ's meta may be pickled.
_PUSH = """
redis.call('SADD', KEYS[1], KEYS[2])
for place = 8, #ARGV, 3 do
  local run, epoch, trace = ARGV[place], ARGV[place + 1], ARGV[place + 2]
  local job = run .. '-' .. epoch
  redis.call('DEL', ARGV[1] .. job)
  redis.call('HSET', ARGV[1] .. job, 'data', ARGV[2] .. run .. '", ' .. epoch .. '], {}]',
    'description', ARGV[3] .. run, 'origin', ARGV[4], 'status', 'queued', 'timeout', ARGV[5],
    'result_ttl', 0, 'failure_ttl', ARGV[6], 'created_at', ARGV[7], 'enqueued_at', ARGV[7])
  if trace ~= '' then redis.call('HSET', ARGV[1] .. job, 'traceparent', trace) end
  redis.pcall('ZREM', KEYS[3], job)
  redis.call('RPUSH', KEYS[2], job)
end
"""
# Removes both or neither: a worker that popped the id is about to read the hash and deletes it.
_UNQUEUE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then return redis.call('DEL', KEYS[2]) end
return 0
"""
_PROBE = f"{KEY_PREFIX}:switchyard:probe"
_WRITE = "redis.call('SET', KEYS[1], 1, 'EX', 60)"


def connect(url: str) -> Redis:
    """A client whose every call has a timeout. Raises SettingsError where it makes no sense of an
    option in the URL."""
    try:
        redis = Redis.from_url(
            url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
        )
        pool: Any = redis.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # it connects with its first command
    except (TypeError, ValueError, RedisError) as failure:
        raise SettingsError(f"REDIS_URL: {reason(failure)}") from None
    return redis


def queue_key(queue: str) -> str:
    """The list of a queue's waiting job ids."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def is_pickled(data: bytes) -> bool:
    """Whether the call is a pickle, judged by its first byte, without opening it."""
    return data.startswith(_PICKLE)


def call_of(stored: bytes, most: int) -> bytes:
    """The first `most` bytes of a job's call, which RQ stores compressed."""
    try:
        return zlib.decompressobj().decompress(stored, most)
    except zlib.error:
        return stored[:most]


@contextmanager
def answered() -> Iterator[None]:
    """Raise BackendUnavailable where Redis fails in the block."""
    try:
        yield
    except RedisError as failure:
        why = CLUSTER if isinstance(failure, _OF_A_CLUSTER) else reason(failure)
        raise BackendUnavailable(f"redis: {why}") from failure


def is_wrong_type(failure: Exception) -> bool:
    """Whether Redis has a value of another type under the key."""
    return isinstance(failure, ResponseError) and "WRONGTYPE" in str(failure)


def require_queue(redis: Redis) -> None:
    """Raises BackendUnavailable where Redis does not answer or cannot be a queue: it is one of a
    cluster, or a script may not write there (a replica, no right to, no memory or disk left)."""
    with answered():
        try:
            asked: Any = redis.info("cluster")
        except ResponseError:
            asked = {}  # not allowed: the first call for another node's key will show it
        if not asked.get("cluster_enabled"):
            redis.eval(_WRITE, 1, _PROBE)
            return
    raise BackendUnavailable(f"redis: {CLUSTER}")


def _job_id(message: Message) -> str:
    return f"{message.run_id}-{message.epoch}"


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """An RQ worker, as it registered itself."""

    name: str
    host: str
    pid: str
    queues: list[str]
    ours: bool
    """Whether it can do runs."""


def registered_workers(redis: Redis) -> list[RegisteredWorker]:
    """The workers that are alive, or were killed within the last minutes."""
    keys: Any = sorted(redis.smembers(REDIS_WORKER_KEYS))
    with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(key, "hostname", "pid", "queues", MARK)
        rows = pipe.execute(raise_on_error=False)
    workers = []
    for key, row in zip(keys, rows, strict=True):
        if not isinstance(row, list) or row[2] is None:
            continue  # it has died, or is not a worker
        name, host, pid, queues = (
            (value or b"").decode(errors="replace") for value in (key, *row[:3])
        )
        own = row[3] is not None
        workers.append(RegisteredWorker(name.rpartition(":")[2], host, pid, queues.split(","), own))
    return workers


class RQBackend:
    """Sends to plain RQ workers. They do not wait for due times, so the relay does."""

    name = "rq"
    waits_until_due = False

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._script = self._redis.register_script(_PUSH)
        self._warned_at = -WARN_SECONDS

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Write one RQ job per message and push their ids."""
        by_job: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_job[message.spec.name].append(message)
        with answered():
            for same in by_job.values():
                for some in chunks(same, _AT_ONCE):
                    self._push(some[0].spec, some)
        return {}

    def _push(self, spec: JobSpec, messages: Sequence[Message]) -> None:
        queue = spec.queue
        # Also removed from the failed jobs, where another worker has put what is sent again now.
        failed = FailedJobRegistry.key_template.format(queue)
        given: list[Any] = [
            *(Job.redis_job_namespace_prefix, f'["{TASK}", null, ["', f"{spec.name} ", queue),
            # The ledger has the result.
            *(int(spec.timeout), FAILURE_TTL_SECONDS, utcformat(datetime.now(UTC))),
        ]
        for message in messages:
            given += message.run_id, message.epoch, message.trace or ""
        keys = [Queue.redis_queues_keys, queue_key(queue), failed]
        self._unhindered({queue}, lambda: self._script(keys, given))

    def _unhindered(self, queues: set[str], act: Callable[[], Answer]) -> Answer:
        """What `act` returns. What is in its way is put aside, as by a worker."""
        try:
            return act()
        except ResponseError as failure:
            if is_wrong_type(failure) and put_aside(self._redis, queues):
                return act()
            raise

    def queued(self, messages: Sequence[Message]) -> set[str]:
        """The runs whose RQ job is still in its queue's list.

        A job that is neither in the list nor claimed is lost, whatever its hash says: its worker
        died in between, and RQ never finds it again.
        """
        with answered():
            queues = {message.spec.queue for message in messages}
            return self._unhindered(queues, lambda: self._queued(queues, messages))

    def _queued(self, queues: set[str], messages: Sequence[Message]) -> set[str]:
        waiting: set[bytes | str] = set()
        for queue in queues:
            waiting.update(self._redis.lrange(queue_key(queue), 0, -1))
        lost = [m for m in messages if _job_id(m).encode() not in waiting]
        self._name_foreign_workers({message.spec.queue for message in lost})
        return {message.run_id for message in messages} - {message.run_id for message in lost}

    def _name_foreign_workers(self, queues: set[str]) -> None:
        """Log workers that take runs from these queues but cannot perform them, at most once a
        minute."""
        if not queues or time.monotonic() < self._warned_at + WARN_SECONDS:
            return
        self._warned_at = time.monotonic()
        for worker in registered_workers(self._redis):
            if not worker.ours and queues.intersection(worker.queues):
                log.error(
                    "an rq worker takes runs and fails them: start `%s` instead",
                    WORKER_COMMAND,
                    extra={"worker": worker.name, "host": worker.host, "pid": worker.pid},
                )

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take each message's RQ job out of its queue, unless a worker has popped it."""
        with answered():
            queues = {message.spec.queue for message in messages}
            self._unhindered(queues, lambda: self._unqueue(messages))

    def _unqueue(self, messages: Sequence[Message]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for message in messages:
                job_id = _job_id(message)
                keys = queue_key(message.spec.queue), Job.key_for(job_id)
                pipe.eval(_UNQUEUE, 2, *keys, job_id)
            pipe.execute()

    def ping(self) -> None:
        """Raises BackendUnavailable where Redis does not answer, or cannot be a queue."""
        require_queue(self._redis)

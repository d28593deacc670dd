"""The RQ backend: one RQ job per message, written as RQ writes it, many in one round trip."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message

TASK = f"{__package__}.task.perform"
"""What an RQ job of a run names."""
DEPENDENCY = f"{__package__}.task.wait_for_run"
"""What the RQ job names that other RQ jobs depend on in a run's place."""
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
FAILURE_TTL_SECONDS = 7 * 24 * 3600
_PIPELINE = 1000
_PICKLE = b"\x80"
"""How every pickle of protocol 2 or later begins, and no JSON."""
# Both or neither: a worker that popped the id is about to read the hash, and deletes it itself.
_UNQUEUE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then return redis.call('DEL', KEYS[2]) end
return 0
"""


def connect(url: str) -> Redis:
    """A client whose every call has a timeout."""
    return Redis.from_url(
        url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
    )


def queue_key(queue: str) -> str:
    """The list of a queue's waiting job ids."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def is_pickled(data: bytes) -> bool:
    """Whether the call is a pickle: told from its first byte, without opening it."""
    return data.startswith(_PICKLE)


def call_of(stored: bytes, most: int) -> bytes:
    """The first `most` bytes of a job's call, which RQ compresses."""
    try:
        return zlib.decompressobj().decompress(stored, most)
    except zlib.error:
        return stored[:most]


@contextmanager
def answered() -> Iterator[None]:
    """Raises BackendUnavailable where Redis fails in the block."""
    try:
        yield
    except RedisError as failure:
        raise BackendUnavailable(f"redis: {type(failure).__name__}") from failure


def _job_id(message: Message) -> str:
    return f"{message.run_id}-{message.epoch}"


class RQBackend:
    """Sends to plain RQ workers. RQ waits for no due time: the relay sends each run when due."""

    name = "rq"
    waits_until_due = False

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._templates: dict[tuple[str, float], dict[str, Any]] = {}

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Write one RQ job per message and push their ids."""
        with answered():
            for start in range(0, len(messages), _PIPELINE):
                self._push(messages[start : start + _PIPELINE])
        return {}

    def _push(self, messages: Sequence[Message]) -> None:
        queued: dict[str, list[str]] = defaultdict(list)
        now = utcformat(datetime.now(UTC))
        # Without MULTI: a job's hash is written before its id is pushed, so that a worker never
        # finds an id without its job, and a cut in between leaves what the relay sends again.
        with self._redis.pipeline(transaction=False) as pipe:
            for message in messages:
                job_id = _job_id(message)
                fields = {
                    **self._template(message.queue, message.timeout),
                    "data": json.dumps([TASK, None, [message.run_id, message.epoch], {}]),
                    "created_at": now,
                    "enqueued_at": now,
                    "description": f"{message.job} {message.run_id}",
                }
                pipe.hset(Job.key_for(job_id), mapping=cast(Any, fields))
                queued[message.queue].append(job_id)
            for queue, ids in queued.items():
                pipe.sadd(Queue.redis_queues_keys, queue_key(queue))
                pipe.rpush(queue_key(queue), *ids)
            pipe.execute()

    def _template(self, queue: str, timeout: float) -> dict[str, Any]:
        """The fields RQ writes for a job like these, from RQ itself, made once."""
        fields = self._templates.get((queue, timeout))
        if fields is None:
            job = Job.create(
                TASK,
                args=("", 0),
                connection=self._redis,
                serializer=JSONSerializer,
                origin=queue,
                timeout=int(timeout),
                result_ttl=0,  # the ledger keeps the result
                failure_ttl=FAILURE_TTL_SECONDS,
                status=JobStatus.QUEUED,
            )
            written = job.to_dict(include_meta=False, include_result=False)
            # RQ reads an empty field and a missing one alike; half of them would go over the wire.
            fields = {name: value for name, value in written.items() if value != ""}
            self._templates[queue, timeout] = fields
        return fields

    def queued(self, messages: Sequence[Message]) -> set[str]:
        """The runs whose RQ job still waits in its queue's list.

        A job out of the list and not claimed is lost (its worker died between the two), whatever
        its hash says; RQ itself never finds it again.
        """
        waiting: set[bytes | str] = set()
        with answered():
            for queue in {message.queue for message in messages}:
                waiting.update(self._redis.lrange(queue_key(queue), 0, -1))
        return {message.run_id for message in messages if _job_id(message).encode() in waiting}

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take each message's RQ job out of its queue; one that a worker has popped stays."""
        with answered(), self._redis.pipeline(transaction=False) as pipe:
            for message in messages:
                job_id = _job_id(message)
                keys = queue_key(message.queue), Job.key_for(job_id)
                pipe.eval(_UNQUEUE, 2, *keys, job_id)
            pipe.execute()

    def ping(self) -> None:
        """Raises BackendUnavailable where Redis does not answer."""
        with answered():
            self._redis.ping()

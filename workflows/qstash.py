"""The QStash backend: one message per sending, which QStash delivers to this app when it is due."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.switchyard import extras
from app.switchyard.clock import moment, utcnow
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message
from app.switchyard.text import answered, reason

if TYPE_CHECKING:  # the package is an extra
    from qstash import QStash
    from qstash.errors import QStashError
    from qstash.message import BatchRequest, BatchResponse, BatchUrlGroupResponse
    from qstash.message import Message as Stored

log = logging.getLogger(__name__)

API = "https://qstash.upstash.io"
DELIVER = "/api/qstash/deliver"
FAILED = "/api/qstash/failed"
ID_PREFIX = "switchyard-"
LABEL = "switchyard"
ANSWER_SECONDS = 3.0
PAUSE_SECONDS = 2.0
"""How long nothing is sent after a failure, so that dispatch() does not wait for each."""
RETRIES = 3
"""The most that every plan of QStash allows. Only deliveries that never reached a job's body are
tried again so; a job's own attempts are messages of their own."""
LONGEST_SECONDS = 900
"""A plan's shortest limit on one delivery."""
FURTHEST = timedelta(days=6)
"""How far ahead a message is sent; every plan takes seven days. A run due later takes two."""
_BATCH = 100
_HOUR = 3600
T = TypeVar("T")


def make_client(settings: Settings) -> QStash:
    """A client for what the settings name. It keeps sockets: one per process, made after a fork.

    It neither tries again (a publish that timed out may have stood: the relay sends it again, under
    the same deduplication id) nor waits its 600 s for an answer. Raises BackendUnavailable.
    """
    require_package()
    from qstash import QStash

    if settings.qstash_secret is None:
        raise BackendUnavailable("qstash: QSTASH_TOKEN is not set")
    client = QStash(settings.qstash_secret, retry=False, base_url=settings.qstash_url or API)
    client.http._client.timeout = ANSWER_SECONDS
    return client


def require_package() -> None:
    """Raises BackendUnavailable where QStash's package is not installed: it is an extra."""
    if (lacking := extras.missing("qstash")) is not None:
        raise BackendUnavailable(f"qstash: {lacking}")


def address(settings: Settings, path: str) -> str:
    """Where QStash reaches this app. Raises BackendUnavailable where nobody said."""
    if settings.backend_url is None:
        raise BackendUnavailable("qstash: BACKEND_URL is not set")
    return settings.backend_url.rstrip("/") + path


def asked(call: Callable[[], T]) -> T:
    """What QStash answers. Raises BackendUnavailable for whatever its client raises."""
    from qstash.errors import QStashError

    try:
        return call()
    except BackendUnavailable:
        raise
    except QStashError as refusal:
        said = answered(_status(refusal)) if _status(refusal) else reason(refusal)
        raise BackendUnavailable(f"qstash: {said}") from refusal
    except Exception as failure:
        # httpx's errors, json's, and KeyError for an answer that is not QStash's.
        raise BackendUnavailable(f"qstash: {reason(failure)}") from failure


def find(client: QStash, message_id: str) -> Stored | None:
    """The message as QStash has it, or None where it has (or no longer has) none of that id.

    Raises BackendUnavailable where it cannot say.
    """
    from qstash.errors import QStashError

    def get() -> Stored | None:
        try:
            return client.message.get(message_id)
        except QStashError as refusal:
            # Documented is 404; an id that it cannot read at all may be a bad request to it.
            if _status(refusal) in (400, 404):
                return None
            raise

    return asked(get)


def _status(refusal: QStashError) -> int:
    found = re.match(r"Request failed with status: (\d{3})", str(refusal))
    return int(found[1]) if found else 0


def unix(moment: datetime) -> int:
    """`moment` in whole seconds, as QStash counts, and never early."""
    return math.ceil(moment.timestamp())


class QStashBackend:
    """Sends to QStash, which waits for a due time by itself."""

    name = "qstash"
    waits_until_due = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: QStash | None = None
        self._pid = 0
        self._paused_until = 0.0

    def _ready(self) -> QStash:
        if self._client is None or self._pid != os.getpid():
            self._client, self._pid = make_client(self._settings), os.getpid()
        return self._client

    def _ask(self, call: Callable[[QStash], T]) -> T:
        if time.monotonic() < self._paused_until:
            raise BackendUnavailable("qstash: could not be reached a moment ago")
        client = self._ready()
        try:
            return asked(lambda: call(client))
        except BackendUnavailable:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            raise

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Publish one message per run, many in one request; QStash's message ids by run id.

        Published again within its window under the same id, a message is delivered once. Raises
        BackendUnavailable where none was taken.
        """
        self._ready()
        from qstash.message import BatchResponse

        refs: dict[str, str] = {}
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            requests = [self._request(message) for message in batch]
            try:
                answers = self._ask(partial(_publish, requests))
            except BackendUnavailable as failure:
                if not refs:
                    raise
                # What was sent is to be noted: the rest is sent later, and not all of it again.
                left = {"runs": len(messages) - start, "reason": str(failure)}
                log.warning("qstash took only some; the others stay pending", extra=left)
                break
            for message, answer in zip(batch, answers, strict=False):
                if isinstance(answer, BatchResponse):
                    refs[message.run_id] = answer.message_id
        return refs

    def _request(self, message: Message) -> BatchRequest:
        at = _at(message.due_at)
        spec = message.spec
        body = {"run": message.run_id, "epoch": message.epoch, "job": spec.name, "at": at}
        if message.sent_at is not None:
            body["sent"] = message.sent_at.timestamp()
        request: BatchRequest = {
            "url": address(self._settings, DELIVER),
            "body": json.dumps(body),
            "content_type": "application/json",
            "deduplication_id": f"{message.run_id}-{message.epoch}-{message.sends}-{at}",
            "retries": RETRIES,
            "timeout": max(1, min(LONGEST_SECONDS, math.ceil(spec.timeout))),
            "failure_callback": address(self._settings, FAILED),
            "label": LABEL,
        }
        if message.due_at > utcnow():
            request["not_before"] = at
        if message.trace is not None:
            request["headers"] = {"traceparent": message.trace}
        if spec.concurrency is not None:
            key = f"{ID_PREFIX}{spec.name}"
            request["flow_control"] = {"key": key, "parallelism": spec.concurrency}
        return request

    def queued(self, messages: Sequence[Message]) -> None:
        """A service is not asked."""

    def cancel(self, messages: Sequence[Message]) -> None:
        """Delete the messages that are still there."""
        refs = [message.ref for message in messages if message.ref is not None]
        for start in range(0, len(refs), _BATCH):
            self._ask(partial(_delete, refs[start : start + _BATCH]))

    def ping(self) -> None:
        """Raises BackendUnavailable where QStash does not answer, or not to this token."""
        self._ask(lambda client: find(client, "msg_none"))


def _publish(
    requests: list[BatchRequest], client: QStash
) -> list[BatchResponse | list[BatchUrlGroupResponse]]:
    return client.message.batch(requests)


def _delete(ids: list[str], client: QStash) -> int:
    return client.message.cancel_many(ids)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a message of ours says: do `run`, if it still stands at `epoch`."""

    run: str
    epoch: int
    at: int
    """What time it was sent for, Unix seconds."""
    sent_at: datetime | None = None
    """When it was sent, or when it was due if that was later."""


def read_sent(text: str) -> Sent | None:
    """The message, or None where the text is none of ours."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    run, epoch, at, sent = (body.get(name) for name in ("run", "epoch", "at", "sent"))
    if not (isinstance(run, str) and type(epoch) is int and type(at) is int):
        return None
    # What no run can have would be an error in some databases, and tried again for nothing.
    sound = 0 < len(run) <= 32 and run.isalnum() and run.isascii() and 0 < epoch < 2**31
    sent_at = moment(max(at, sent)) if type(sent) is float else None
    return Sent(run, epoch, at, sent_at) if sound else None


def _at(due: datetime) -> int:
    """When to deliver, Unix seconds: when due, or by a whole hour in between where that is far."""
    furthest = unix(utcnow() + FURTHEST) // _HOUR * _HOUR
    return min(unix(due), furthest)

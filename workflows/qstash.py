"""The QStash backend: each sending is one message, which QStash delivers to this app when due."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from app.switchyard.clock import utcnow
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Message
from app.switchyard.text import answered, reason
from workflows.service import Named, Service, require_package

if TYPE_CHECKING:  # the package is an extra
    from qstash import QStash
    from qstash.errors import QStashError
    from qstash.message import BatchJsonRequest
    from qstash.message import Message as Stored

log = logger_of(__name__)

API = "https://qstash.upstash.io"
DELIVER = "/api/qstash/deliver"
FAILED = "/api/qstash/failed"
ID_PREFIX = "switchyard-"
LABEL = "switchyard"
ANSWER_SECONDS = 3.0
RETRIES = 3
"""The most that every plan of QStash allows. QStash retries only deliveries that never reached the
job's body; each of a job's own attempts has its own message."""
LONGEST_SECONDS = 900
"""The shortest time limit on a delivery in any plan."""
FURTHEST = timedelta(days=6)
"""How far ahead a message is sent. Every plan allows seven days; a later run takes two messages."""
_BATCH = 100
_HOUR = 3600


def make_client(settings: Settings) -> QStash:
    """A client for the settings, for one process: it keeps sockets.

    It does not retry, since a publish that timed out may have succeeded: the relay sends it again
    under the same deduplication id. Nor does it wait the default 600 s. Raises BackendUnavailable.
    """
    require_package("qstash")
    if settings.qstash_secret is None:
        raise BackendUnavailable("qstash: QSTASH_TOKEN is not set")
    from qstash import QStash  # with httpx, 8 MiB

    client = QStash(settings.qstash_secret, retry=False, base_url=settings.qstash_url or API)
    client.http._client.timeout = ANSWER_SECONDS
    return client


def address(settings: Settings, path: str) -> str:
    """The URL at which QStash reaches this app. Raises BackendUnavailable where it is not set."""
    if settings.backend_url is None:
        raise BackendUnavailable("qstash: BACKEND_URL is not set")
    return settings.backend_url.rstrip("/") + path


@contextmanager
def asking() -> Iterator[None]:
    """A question to QStash. Raises BackendUnavailable for anything that its client raises."""
    from qstash.errors import QStashError

    try:
        yield
    except BackendUnavailable:
        raise
    except QStashError as refusal:
        status = _status(refusal)
        said = answered(status) if status else reason(refusal)
        raise BackendUnavailable(f"qstash: {said}") from refusal
    except Exception as failure:
        # Errors of httpx and json, and KeyError for an answer that is not QStash's.
        raise BackendUnavailable(f"qstash: {reason(failure)}") from failure


def find(client: QStash, message_id: str) -> Stored | None:
    """The message as QStash has it, or None where it has none with that id (any more).

    Raises BackendUnavailable where it cannot tell.
    """
    from qstash.errors import QStashError

    with asking():
        try:
            return client.message.get(message_id)
        except QStashError as refusal:
            # 404 is documented. An id that it cannot parse may give 400.
            if _status(refusal) not in (400, 404):
                raise
    return None


def _status(refusal: QStashError) -> int:
    found = re.match(r"Request failed with status: (\d{3})", str(refusal))
    return int(found[1]) if found else 0


def unix(moment: datetime) -> int:
    """`moment` in whole seconds, as QStash counts, rounded up."""
    return math.ceil(moment.timestamp())


class QStashBackend(Service["QStash"]):
    """Sends to QStash."""

    name = "qstash"

    def _make(self) -> QStash:
        return make_client(self._settings)

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Publish one message per run, many in one request. Returns message ids by run id.

        A message that is published again under the same id within QStash's window is delivered
        once. Raises BackendUnavailable where none was accepted.
        """
        client = self.client()
        refs: dict[str, str] = {}
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            requests = [self._request(message) for message in batch]
            try:
                with self.in_reach(), asking():
                    answers = client.message.batch_json(requests)
            except BackendUnavailable as failure:
                if not refs:
                    raise
                # The accepted ones must be recorded, so that only the rest is sent again.
                left = {"runs": len(messages) - start, "reason": str(failure)}
                log.warning("qstash took only some; the others stay pending", extra=left)
                break
            for message, answer in zip(batch, answers, strict=False):
                if not isinstance(answer, list):  # as for a group of URLs
                    refs[message.run_id] = answer.message_id
        return refs

    def _request(self, message: Message) -> BatchJsonRequest:
        at = _at(message.due_at)
        spec = message.spec
        body = {"run": message.run_id, "epoch": message.epoch, "job": spec.name, "at": at}
        if message.sent_at is not None:
            body["sent"] = message.sent_at.timestamp()
        request: BatchJsonRequest = {
            "url": address(self._settings, DELIVER),
            "body": body,
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

    def cancel(self, messages: Sequence[Message]) -> None:
        """Delete those messages that still exist."""
        refs = [message.ref for message in messages if message.ref is not None]
        for start in range(0, len(refs), _BATCH):
            client = self.client()
            with self.in_reach(), asking():
                client.message.cancel_many(refs[start : start + _BATCH])

    def ping(self) -> None:
        """Raise BackendUnavailable where QStash does not answer, or refuses this token."""
        client = self.client()
        with self.in_reach():
            find(client, "msg_none")


class Sent(Named):
    """The content of a message."""

    at: int
    """The time for which it was sent, in Unix seconds."""
    sent: float | None = None
    """When it was sent, in Unix seconds."""


def _at(due: datetime) -> int:
    """When to deliver, in Unix seconds: when due, or at an earlier full hour if that is far off."""
    furthest = unix(utcnow() + FURTHEST) // _HOUR * _HOUR
    return min(unix(due), furthest)

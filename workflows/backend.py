"""The Inngest backend: one event per message, whose id consists of run, epoch and resends."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from app.switchyard.clock import utcnow
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message, Refused
from app.switchyard.text import answered
from workflows.client import (
    APP_ID,
    EventRefused,
    ask,
    make_sender,
    send,
)
from workflows.service import Service, require_package

if TYPE_CHECKING:
    import requests
    from inngest import Event, Inngest

MARK = "_switchyard"
"""The field of an event's data that names the run."""
BATCH_EVENTS = 400
BATCH_BYTES = 1024 * 1024
SHOWN_BYTES = 128 * 1024
"""Larger payloads and results stay in the ledger, and the event only names the run."""
# Go reads a number as a float64, and has no canonical form for half of a surrogate pair. Inngest
# refuses such an event, and never calls again for a run with such a result.
_NOT_FOR_GO = re.compile(
    r"\d{309}|\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.IGNORECASE
)
DEEPEST = 100
"""How many levels of JSON are shown to Inngest, whose SDK reads fewer than 200."""
_STRING, _BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"'), re.compile(r"[\[\]{}]")
MOST_REFUSED = 10
"""How many events of one sending it may refuse, before the rest is left to the relay."""
FURTHEST = timedelta(days=300)
"""The longest wait that Inngest is asked for, since it refuses more than a year. A run that is due
later waits again."""
LISTED_SECONDS = 0.4
"""How soon after an event Inngest lists the runs that it has started."""
NEW_SECONDS = 5.0
"""How old an event is at most whose runs may still come, with two clocks that differ."""
_ULID = str.maketrans("ABCDEFGHJKMNPQRSTVWXYZ", "abcdefghijklmnopqrstuv")
_ASKERS = 8


class InngestBackend(Service["Inngest"]):
    """Sends to Inngest."""

    name = "inngest"

    def _make(self) -> Inngest:
        return make_sender(self._settings)

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Send one event per message. Returns Inngest's own event ids by run id.

        An event that is sent again with the same id within 24 hours starts nothing twice.
        """
        client = self.client()
        answers: dict[str, str] = {}
        left, refused = list(messages), 0
        while left and refused < MOST_REFUSED:
            batch = _batch(left)
            events = [_event(message) for message in batch]
            with self.in_reach():
                try:
                    ids = send(self._settings, client, events)
                except EventRefused as why:
                    ids = [*why.taken, Refused(why)]
                    refused += 1
            answers.update(zip((message.run_id for message in batch), ids, strict=False))
            left = left[len(ids) :]
        return answers

    def cancel(self, messages: Sequence[Message]) -> None:
        """Cancel those function runs of the messages' events that have not ended."""
        known = [str(message.ref) for message in messages if message.ref is not None]
        with ThreadPoolExecutor(_ASKERS) as pool:
            list(pool.map(self._cancel_event, known))

    def _cancel_event(self, event_id: str) -> None:
        with self.in_reach():
            runs = self._runs(event_id)
            if not runs and is_new(event_id):
                time.sleep(LISTED_SECONDS)
                runs = self._runs(event_id)
            # A cached answer may call a run that continues Completed. Its end time decides.
            for run in runs:
                if not run.get("ended_at"):
                    self._ask("DELETE", f"/v1/runs/{run.get('run_id')}", fine=(404, 409))

    def _runs(self, event_id: str) -> list[dict[str, Any]]:
        """The function runs that an event has started."""
        # Its answers are cached by URL.
        path = f"/v1/events/{event_id}/runs?_={time.time_ns()}"
        answer = self._ask("GET", path, fine=(404,))
        try:
            runs = answer.json().get("data") or [] if answer.ok else []
            return [dict(run) for run in runs]
        except (ValueError, AttributeError, TypeError) as failure:
            raise BackendUnavailable("inngest: an answer that is not its own") from failure

    def _ask(self, method: str, path: str, fine: Container[int]) -> requests.Response:
        answer = ask(self._settings, method, path)
        if not answer.ok and answer.status_code not in fine:
            raise BackendUnavailable(f"inngest: {answered(answer.status_code)}")
        return answer

    def ping(self) -> None:
        """Raise BackendUnavailable where Inngest does not answer, or refuses the signing key."""
        require_package(self.name)
        self._ask("GET", f"/v1/apps/{APP_ID}/functions", fine=range(400, 502))


def is_new(event_id: str) -> bool:
    """Whether Inngest has only just taken the event, as its id says, which begins with the time."""
    with suppress(ValueError):
        age = time.time() - int(event_id[:10].translate(_ULID), 32) / 1000
        return abs(age) < NEW_SECONDS
    return False


def showable(text: str) -> bool:
    """Whether Inngest is to see this JSON (with no character but ASCII in it)."""
    return len(text) <= SHOWN_BYTES and not _NOT_FOR_GO.search(text) and not _is_deep(text)


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    brackets = _BRACKET.findall(_STRING.sub("", text))
    levels = accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    return max(levels, default=0) > DEEPEST


def _event(message: Message) -> Event:
    from inngest import Event

    sent = max(message.due_at, message.sent_at or message.due_at)
    data = json.loads(message.payload) if showable(message.payload) else {}
    data[MARK] = {"run": message.run_id, "epoch": message.epoch}
    if message.trace is not None:
        data[MARK]["traceparent"] = message.trace
    return Event(
        name=message.spec.event,
        id=f"{message.run_id}-{message.epoch}-{message.sends}",
        data=data,
        ts=int(min(sent, utcnow() + FURTHEST).timestamp() * 1000),
    )


def _batch(messages: Sequence[Message]) -> list[Message]:
    """As many of them as one request may have, from the first on."""
    size = 0
    for count, message in enumerate(messages[:BATCH_EVENTS]):
        size += min(len(message.payload), SHOWN_BYTES) + 300
        if count and size > BATCH_BYTES:
            return list(messages[:count])
    return list(messages[:BATCH_EVENTS])

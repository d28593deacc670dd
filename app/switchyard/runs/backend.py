"""A backend from both ends: what the ledger sends it, and what it delivers back, slice by slice."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from app.switchyard import effects, telemetry
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import JobSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What a backend is sent: do run `run_id`, if it still stands at `epoch`."""

    run_id: str
    spec: JobSpec
    backend: str
    payload: str
    """Canonical JSON."""
    epoch: int
    sends: int
    due_at: datetime
    ref: str | None = None
    """The backend's own reference, where it gave one."""
    sent_at: datetime | None = None
    """When it is sent: a backend gives it back with the delivery, if it can."""
    trace: str | None = None
    """The run's W3C traceparent, for whoever looks at the queue."""


class Backend(Protocol):
    """A queue. It moves runs and knows nothing of what is in them; it may lose them."""

    name: str
    waits_until_due: bool
    """Whether it waits for a due time by itself; else the relay sends each run when it is due."""

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue each message; the backend's own references by run id, where it gives any.

        Raises BackendUnavailable where it failed or its outcome is unknown.
        """
        ...

    def queued(self, messages: Sequence[Message]) -> set[str] | None:
        """The run ids among `messages` that are still in its list; None of a service, which is not
        asked: what it says may be wrong, and each question slows it down.

        Raises BackendUnavailable where it cannot say.
        """
        ...

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take back what was sent, as far as it can: what is delivered all the same finds a newer
        epoch and does nothing.

        Raises BackendUnavailable where it cannot be reached; callers go on without.
        """
        ...

    def ping(self) -> None:
        """Raises BackendUnavailable where it cannot be reached."""
        ...


class Backends:
    """The backends of one process, by name."""

    def __init__(
        self, backends: Iterable[Backend], unsent: Callable[[str], None] = lambda _why: None
    ) -> None:
        self._by_name = {backend.name: backend for backend in backends}
        self._unsent = unsent

    def noting(self, unsent: Callable[[str], None]) -> Backends:
        """The same backends; `unsent` is called with the reason whenever one cannot be reached."""
        return Backends(self._by_name.values(), unsent)

    def __getitem__(self, name: str) -> Backend:
        try:
            return self._by_name[name]
        except KeyError:
            raise BackendUnavailable(f"this process has no backend {name!r}") from None

    def names(self) -> list[str]:
        """The names, in the order given."""
        return list(self._by_name)

    def waits_until_due(self, name: str) -> bool:
        """Whether backend `name` waits for a due time by itself; an unknown one does not."""
        backend = self._by_name.get(name)
        return backend is not None and backend.waits_until_due

    def send(self, messages: Sequence[Message], now: datetime) -> dict[str, str]:
        """Send each message that its backend can take by now; references by run id.

        A backend that fails is logged and left to the relay: what is recorded stays pending.
        """
        effects.allow("sending to a queue")
        groups: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            if message.due_at <= now or self.waits_until_due(message.backend):
                groups[message.backend].append(message)
        refs: dict[str, str] = {}
        for name, group in groups.items():
            with telemetry.spans.send(group[0].spec, group):
                try:
                    refs.update(self[name].send(group))
                except BackendUnavailable as failure:
                    telemetry.spans.failed(failure)
                    self._unsent(str(failure))
                    log.warning(
                        "not sent to the backend; its runs stay pending",
                        extra={"backend": name, "runs": len(group), "reason": str(failure)},
                    )
        return refs


class End(StrEnum):
    """How a slice ended."""

    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    """A step failed and is tried again at `due_at`."""
    WAIT = "wait"
    """A sleep, or children: the run goes on at `due_at` or when it is sent again."""
    NOT_DUE = "not_due"
    """Delivered too early, or every slot of its job is taken: nothing was done; see `due_at`."""
    BUSY = "busy"
    """An earlier call of this same delivery still holds the run, until `due_at`."""
    NOT_MINE = "not_mine"
    """The run has ended, was taken over, or moved to another backend: nothing was done."""
    YIELDED = "yielded"
    """The process is stopping; the run goes on elsewhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slice."""

    end: End
    result: Any = None
    error: str | None = None
    due_at: datetime | None = None


class Delivery:
    """One slice of a run as a backend delivers it: here, all of it in the calling process, as on a
    worker. A backend that calls again overrides `ends` and `run_step`."""

    calls_again = False
    """Whether the backend calls again by itself, after a step that ended a call and when due: the
    run stays this delivery's between two calls. Else a message is sent for every slice."""

    def __init__(
        self,
        holder: str,
        stopping: Callable[[], bool] = lambda: False,
        sent_at: datetime | None = None,
    ) -> None:
        self.sent_at = sent_at
        """When the message that it is of was sent, where that is known."""
        self.holder = holder
        """Who claims the run: unique to this slice or, where the backend calls again, to them all.
        """
        self.stopping = stopping
        """Whether to stop at the next step boundary."""

    def is_signal(self, failure: BaseException) -> bool:
        """Whether the backend's own code raised it, to end the call: no error of the body's."""
        return False

    def limit(self, seconds: float) -> AbstractContextManager[object]:
        """Ends a body that takes longer, if whoever delivers can."""
        return nullcontext()

    def ends(self) -> bool:
        """Whether the slice ends with the step that is just being recorded."""
        return self.calls_again

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        """Make one attempt at step `name`."""
        return attempt()

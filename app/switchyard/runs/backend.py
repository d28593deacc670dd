"""A backend from both ends: the messages that the ledger sends it, and the slices it delivers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import JobSpec


@dataclass(frozen=True, slots=True)
class Message:
    """What a backend is sent: perform run `run_id`, if it still stands at `epoch`."""

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
    """When it is sent. A backend returns it with the delivery, if it can."""
    trace: str | None = None
    """The run's W3C traceparent, for anyone who looks at the queue."""


class Refused(str):
    """Why a backend does not take a message, in the place of its reference for it."""


class Backend(Protocol):
    """A queue. It moves runs without knowing what is in them, and it may lose them."""

    name: str
    waits_until_due: bool
    """Whether it waits for due times itself. Otherwise the relay sends each run when it is due."""

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue each message. Returns the backend's own references by run id, where it gives any,
        and a Refused for each message that it does not take.

        Raises BackendUnavailable where that failed or its outcome is unknown.
        """
        ...

    def queued(self, messages: Sequence[Message]) -> set[str] | None:
        """The run ids among `messages` that are still in its list. A service returns None: its
        answers may be wrong, and each question slows it down.

        Raises BackendUnavailable where it cannot say.
        """
        ...

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take back messages, as far as it can. One that is delivered all the same finds a newer
        epoch and does nothing.

        Raises BackendUnavailable where it cannot be reached; callers carry on regardless.
        """
        ...

    def ping(self) -> None:
        """Raises BackendUnavailable where it cannot be reached."""
        ...


class Backends(dict[str, Backend]):
    """The backends of one process, by name."""

    def __init__(self, backends: Iterable[Backend]) -> None:
        super().__init__((backend.name, backend) for backend in backends)

    def __missing__(self, name: str) -> Backend:
        raise BackendUnavailable(f"this process has no backend {name!r}")

    def waits_until_due(self, name: str) -> bool:
        """Whether backend `name` waits for due times itself. An unknown one does not."""
        backend = self.get(name)
        return backend is not None and backend.waits_until_due


class End(StrEnum):
    """How a slice ended."""

    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    """A step failed and is tried again at `due_at`."""
    WAIT = "wait"
    """A sleep or a join: the run continues at `due_at`, or when it is sent again."""
    NOT_DUE = "not_due"
    """It was delivered too early, or its job has no free slot. Nothing was done; see `due_at`."""
    BUSY = "busy"
    """An earlier call of the same delivery still holds the run, until `due_at`."""
    NOT_MINE = "not_mine"
    """The run has ended, was taken over, or moved to another backend. Nothing was done."""
    YIELDED = "yielded"
    """The process is stopping. The run continues elsewhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slice."""

    end: End
    result: Any = None
    error: str | None = None
    due_at: datetime | None = None


class Delivery:
    """One slice of a run as a backend delivers it. This one does the whole slice in the calling
    process, as a worker does. A backend that calls again overrides `ends` and `run_step`."""

    calls_again = False
    """Whether the backend itself calls again, when the run is due or after a step that ended a
    call: this delivery then keeps the run between two calls. Otherwise each slice needs a message.
    """

    def __init__(
        self,
        holder: str,
        stopping: Callable[[], bool] = lambda: False,
        sent_at: datetime | None = None,
    ) -> None:
        self.sent_at = sent_at
        """When its message was sent, where that is known."""
        self.holder = holder
        """Who claims the run: unique to this slice, or shared by all calls of a backend that calls
        again."""
        self.stopping = stopping
        """Whether to stop at the next step boundary."""

    def is_signal(self, failure: BaseException) -> bool:
        """Whether the backend's own code raised this to end the call, so that the body is fine."""
        return False

    def limit(self, seconds: float) -> AbstractContextManager[object]:
        """End a body that takes longer, where the delivery can."""
        return nullcontext()

    def ends(self) -> bool:
        """Whether the slice ends with the step that is being recorded."""
        return self.calls_again

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        """Make one attempt at step `name`."""
        return attempt()

"""How a backend carries one slice of a run: the few points where backends differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class End(StrEnum):
    """How a slice ended."""

    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    """A step failed and is tried again at `due_at`."""
    WAIT = "wait"
    """A sleep, or children: the run goes on at `due_at` or when it is sent again."""
    NOT_DUE = "not_due"
    """Sent too early, or every place of its job is taken: nothing was done; `due_at` says when."""
    BUSY = "busy"
    """This carrier's own earlier call still holds the run, until `due_at`."""
    NOT_MINE = "not_mine"
    """The run is done with, was taken over, or moved to another backend: nothing was done."""
    YIELDED = "yielded"
    """The process is stopping; the run goes on elsewhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slice."""

    end: End
    result: Any = None
    error: str | None = None
    due_at: datetime | None = None


class Pause(BaseException):
    """Unwinds a body whose run goes on later. A BaseException, so that a body's own `except
    Exception` does not take it for a failure."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.end)
        self.outcome = outcome


class Carrier:
    """Carries a slice in the calling process, step after step: a worker, the CLI, a test."""

    one_step_per_call = False
    """Whether the backend calls again after each step, and nobody holds the run meanwhile."""
    keeps_time = False
    """Whether the backend itself comes back at a due time; else the relay sends it again."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        """Who claims: unique to this slice, or to the backend's run that comes back for more."""

    def carry(self, name: str, attempt: Callable[[], Any]) -> Any:
        """Make one attempt at step `name`."""
        return attempt()

    def stopping(self) -> bool:
        """Whether to stop at the next step boundary."""
        return False

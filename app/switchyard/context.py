"""What a job's body sees: its run, its steps, its gateways. It knows no queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pydantic import BaseModel
from sqlalchemy.orm import Session

P = ParamSpec("P")
T = TypeVar("T")
Payload = BaseModel | Mapping[str, Any]
AppContext = Callable[[], AbstractContextManager[object]]
"""Flask's `app.app_context`: a new context for each slice of a run, and each look of a process."""


class Steps(Protocol):
    """The durable pieces of a body. Names are unique within a body; a repeated one gets `:1`, …"""

    def run(
        self,
        name: str,
        do: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do `do(tx, *args)` once and remember its result, which must be JSON.

        What it writes through `tx` commits in the same transaction as the result, or not at all.
        `tx` begins at its first use: call the outside world before that, so that no lock is held
        meanwhile. Raises StepFailed when its attempts are used up.
        """
        ...

    def once(
        self,
        name: str,
        do: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `run`, for an effect that takes no idempotency key: at most once.

        That it begins is on record before `do` is called. NotDone, RetryAfter, NonRetriable and
        BadInput from `do` say that nothing took effect, and steer its retries. After anything else,
        a crash included, the outcome is unknown: that is recorded and raised as OutcomeUnknown, and
        `do` is not called again - unless the job says IfUnknown.REPEAT, at least once.
        """
        ...

    def sleep(self, name: str, duration: timedelta) -> None:
        """Go on after `duration`, holding no worker meanwhile."""
        ...

    def dispatch(
        self, name: str, job: str, payloads: Sequence[Payload], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """Start one child run per payload, on this run's backend; the ids of the children."""
        ...

    def join(self, name: str) -> dict[str, int]:
        """Wait until every child is done with; how many ended in which status."""
        ...


class Context(Protocol):
    """One slice of a run, as its body sees it."""

    run_id: str
    job: str
    key: str
    backend: str
    created_at: datetime
    gateways: Any
    """Whatever the app gives its jobs to reach the outside world with."""

    @property
    def step(self) -> Steps:
        """The durable pieces of the body."""
        ...

    def now(self) -> datetime:
        """The current time, UTC."""
        ...

    def transaction(self) -> AbstractContextManager[Session]:
        """A transaction of its own, committed at the end of its block: for what must be on record
        before an outside call, whatever becomes of the step."""
        ...

    def stopping(self) -> bool:
        """Whether the process is about to end: a long step comes to an early end then."""
        ...

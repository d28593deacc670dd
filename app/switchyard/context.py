"""What a job's body sees: its run, its steps and its gateways. It knows no queue."""

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
    """The durable pieces of a body. Names are unique within a body: repeated ones get `:1`, …"""

    def run(
        self,
        name: str,
        do: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `do(tx, *args)` once and remember its result, which must be JSON.

        What it writes through `tx` commits in the same transaction as the result, or not at all.
        `tx` begins at its first use: call the outside world before that, so that no lock is held
        meanwhile. Raises StepFailed when the attempts are used up.
        """
        ...

    def once(
        self,
        name: str,
        do: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Like `run`, but at most once, for an effect that takes no idempotency key.

        The beginning is recorded before `do` is called. With NotDone, RetryAfter, NonRetriable or
        BadInput, `do` declares that nothing took effect, and steers its retries. After any other
        error, or a crash, the outcome is unknown: that is recorded and raised as OutcomeUnknown,
        and `do` is not called again, unless the job's IfUnknown.REPEAT makes it at least once.
        """
        ...

    def sleep(self, name: str, duration: timedelta) -> None:
        """Continue after `duration`, without occupying a worker meanwhile."""
        ...

    def dispatch(
        self, name: str, job: str, payloads: Sequence[Payload], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """Start one child run per payload on this run's backend. Returns the children's ids."""
        ...

    def join(self, name: str) -> dict[str, int]:
        """Wait until every child has ended. Returns how many ended in each status."""
        ...


class Context(Protocol):
    """One slice of a run, as its body sees it."""

    run_id: str
    job: str
    key: str
    backend: str
    created_at: datetime
    gateways: Any
    """The object through which the app's jobs reach the outside world, as the app defined it."""

    @property
    def step(self) -> Steps:
        """The durable pieces of the body."""
        ...

    def now(self) -> datetime:
        """The current time, UTC."""
        ...

    def transaction(self) -> AbstractContextManager[Session]:
        """A separate transaction, committed at the end of its block. Use it for what must be
        recorded before an outside call, whatever becomes of the step."""
        ...

    def stopping(self) -> bool:
        """Whether the process is about to end, so that a long step should finish early."""
        ...

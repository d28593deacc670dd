"""The run at work: what code that is passed no context asks of its run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from app.switchyard.runs.context import RunContext


@dataclass(frozen=True, slots=True, eq=False)
class CurrentRun:
    """The run whose body is being done, on whichever side."""

    id: str
    key: str
    job: str
    backend: str
    context: RunContext

    @property
    def attempt(self) -> int:
        """Which attempt at the step in hand, or at the body outside of steps, this is: from 1."""
        return self.context.attempt

    def progress(self, n: float, of: float | None = None, text: str | None = None) -> None:
        """Have the console and `runs show` say how far it is: `n`, of so many, and a line of text.

        Each call is one write to the ledger. One that the database does not take is logged and
        left out. Raises ValueError for what is not a finite number.
        """
        self.context.note_progress(n, of, text)


_current: ContextVar[CurrentRun | None] = ContextVar("switchyard_run", default=None)


def current_run() -> CurrentRun | None:
    """The run whose body calls this; None outside of a run, and in threads that a body starts."""
    return _current.get()


@contextmanager
def at_work(context: RunContext) -> Iterator[None]:
    """Have `current_run()` answer with this slice's run in the block."""
    run = CurrentRun(context.run_id, context.key, context.job, context.backend, context)
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)

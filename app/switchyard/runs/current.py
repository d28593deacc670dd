"""The current run, for code that is not passed a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from app.switchyard.runs.context import RunContext


@dataclass(frozen=True, slots=True, eq=False)
class CurrentRun:
    """The run whose body is being performed, on either side."""

    id: str
    key: str
    job: str
    backend: str
    context: RunContext

    @property
    def attempt(self) -> int:
        """The number of the attempt at the current step, or at the body outside of any, from 1."""
        return self.context.attempt

    def progress(self, n: float, of: float | None = None, text: str | None = None) -> None:
        """Show in the console and in `runs show` that `n` of `of` are done, with a line of text.

        Each call is one write to the ledger. A write that the database refuses is logged and
        skipped. Raises ValueError for a number that is not finite.
        """
        self.context.note_progress(n, of, text)


_current: ContextVar[CurrentRun | None] = ContextVar("switchyard_run", default=None)


def current_run() -> CurrentRun | None:
    """The run whose body calls this. None outside of a run, and in threads that a body starts."""
    return _current.get()


@contextmanager
def at_work(context: RunContext) -> Iterator[None]:
    """Make `current_run()` return this slice's run inside the block."""
    run = CurrentRun(context.run_id, context.key, context.job, context.backend, context)
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)

"""The history kept for people: each failed attempt and each hand-off, written in the transaction
that changes the run itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from traceback import TracebackException
from typing import Any

from sqlalchemy import Connection, insert

from app.switchyard.runs.models import TAKEN_OVER, AnyRow, failures, handoffs
from app.switchyard.text import said, without_secrets

LONGEST_TRACEBACK = 8192
"""How many bytes of a traceback are kept. They are its last, where the error is."""
_LONGEST_ENTRY = 1000
_ERROR_CLASS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt."""

    cause: BaseException
    attempt: int
    step: str | None = None
    """None outside of any step."""

    def values(self) -> dict[str, Any]:
        """The columns that do not depend on the run."""
        return {
            "step": self.step,
            "attempt": self.attempt,
            "error": type(self.cause).__name__[:_ERROR_CLASS],
            "message": without_secrets(said(self.cause)),
            "traceback": _trace(self.cause),
        }


def _trace(cause: BaseException) -> str | None:
    if cause.__traceback__ is None:
        return None
    # An error's text may be huge. It must not push out the lines that say where it was raised.
    entries = (
        entry[:_LONGEST_ENTRY] for entry in TracebackException.from_exception(cause).format()
    )
    text = without_secrets("".join(entries)).encode(errors="replace")
    return text[-LONGEST_TRACEBACK:].decode(errors="ignore")


def taken_over(connection: Connection, row: AnyRow, at: datetime) -> None:
    """Record that the lease of a run ran out. `row` has the run's id, job, backend and attempt."""
    values = {"run_id": row.id, "job": row.job, "backend": row.backend, "attempt": row.attempt}
    why = "its lease ran out: the process that held it ended, froze, or lost the database"
    connection.execute(insert(failures), values | {"at": at, "error": TAKEN_OVER, "message": why})


def handed_over(
    connection: Connection, before: Iterable[tuple[str, str, str, int]], to: str, at: datetime
) -> None:
    """Record that runs moved to backend `to`. `before` has each one's id, job, backend and epoch
    from before the move."""
    moved = {"to_backend": to, "at": at}
    values = [
        {"run_id": run_id, "job": job, "from_backend": backend, "epoch": epoch + 1, **moved}
        for run_id, job, backend, epoch in before
        if backend != to
    ]
    if values:
        connection.execute(insert(handoffs), values)

"""What is kept for people: each attempt that failed and each hand-off, in the very transaction that
records it in the run itself."""

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
"""Bytes kept of a traceback: its end, where the error is."""
_LONGEST_ENTRY = 1000
_ERROR_CLASS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed."""

    cause: BaseException
    attempt: int
    step: str | None = None
    """None outside of steps."""

    def values(self) -> dict[str, Any]:
        """What is kept of it, whichever run it is of."""
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
    # An error may hold all that it was given: its text must not push out where it was raised.
    entries = (
        entry[:_LONGEST_ENTRY] for entry in TracebackException.from_exception(cause).format()
    )
    text = without_secrets("".join(entries)).encode(errors="replace")
    return text[-LONGEST_TRACEBACK:].decode(errors="ignore")


def taken_over(connection: Connection, row: AnyRow, at: datetime) -> None:
    """The attempt of a run whose lease has run out; `row` has its id, job, backend and attempt."""
    values = {"run_id": row.id, "job": row.job, "backend": row.backend, "attempt": row.attempt}
    why = "its lease ran out: the process that had it ended, stood still, or lost the database"
    connection.execute(insert(failures), values | {"at": at, "error": TAKEN_OVER, "message": why})


def handed_over(
    connection: Connection, before: Iterable[tuple[str, str, str, int]], to: str, at: datetime
) -> None:
    """These runs changed to backend `to`: their ids, jobs, backends and epochs as they were."""
    moved = {"to_backend": to, "at": at}
    values = [
        {"run_id": run_id, "job": job, "from_backend": backend, "epoch": epoch + 1, **moved}
        for run_id, job, backend, epoch in before
        if backend != to
    ]
    if values:
        connection.execute(insert(handoffs), values)

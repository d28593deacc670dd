"""The end of a slice in the middle of a body."""

from __future__ import annotations

from app.runs.carrier import Outcome


class Pause(BaseException):
    """Unwinds a body whose run goes on later. A BaseException, so that a body's own `except
    Exception` does not take it for a failure."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.end)
        self.outcome = outcome

"""What a job's body may raise to steer its retries; any other exception is retried with a gap."""

from __future__ import annotations

from datetime import datetime, timedelta

from app.switchyard.errors import SwitchyardError


class NonRetriable(SwitchyardError):
    """Trying again cannot help: the step fails at once."""


class RetryAfter(SwitchyardError):
    """Try again, but not before a given time; it counts as an attempt."""

    def __init__(self, message: str, when: datetime | timedelta) -> None:
        super().__init__(message)
        self.when = when
        """A time in UTC, or a wait from now."""


class NotDone(SwitchyardError):
    """What was to be done once was not done, for certain: it is tried again after a gap."""


class OutcomeUnknown(SwitchyardError):
    """A step that is done at most once was begun, and may or may not have been done. It is not
    begun again, not even by a retry of its run. A body may catch it and go on."""


class StepFailed(SwitchyardError):
    """A step used up its attempts, or raised NonRetriable. A body may catch it and go on."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.reason = reason

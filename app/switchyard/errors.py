"""One tree of errors: everything that the product raises on purpose is a SwitchyardError."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import islice
from typing import Any, Self

MOST_MISFITS = 50
"""How many errors of a payload one answer lists."""
_OBJECTS = ("dict_type", "model_type", "model_attributes_type")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The part of a message that suggests a name, or '' where none is similar."""
    near = get_close_matches(wrong, [str(name) for name in known], 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class SwitchyardError(Exception):
    """Something that the product refuses or cannot do. The message may be shown to users."""

    status = 500
    """The HTTP status of the answer."""
    title = "Internal error"
    retry_after: float | None = None
    """The seconds after which to try again, where they are known."""

    def __init_subclass__(cls, *, status: int | None = None, title: str | None = None) -> None:
        cls.status = cls.status if status is None else status
        cls.title = cls.title if title is None else title


class BadInput(SwitchyardError, status=422, title="Invalid input"):
    """The caller's input is wrong. Nothing was changed."""

    errors: Sequence[dict[str, str]] = ()
    """Each error in a payload: its `detail`, and the JSON `pointer` to it."""

    @classmethod
    def misfits(cls, of: str, misfits: Iterable[Any], under: str = "#") -> Self:
        """The errors that pydantic found in the value at the pointer `under`. The message gives the
        first of them, after `of`."""
        said = [
            (
                [str(part) for part in one["loc"]],
                "must be an object"
                if one["type"] in _OBJECTS
                else one["msg"].removeprefix("Value error, "),
            )
            for one in islice(misfits, MOST_MISFITS)
        ]
        where, says = ".".join(said[0][0]) or "payload", said[0][1]
        refusal = cls(f"{of}{where}: {says}")
        refusal.errors = [
            {
                "detail": says,
                "pointer": "/".join(
                    [under, *(part.replace("~", "~0").replace("/", "~1") for part in where)]
                ),
            }
            for where, says in said
        ]
        return refusal


class SettingsError(SwitchyardError, title="Bad setting"):
    """A setting is missing or wrong. The process must not start."""


class SecretKeyMissing(SettingsError, status=503, title="SECRET_KEY is not set"):
    """Without SECRET_KEY nothing can be signed and no signature checked."""


class UnknownJob(BadInput, status=404, title="Unknown job"):
    """The catalogue has no job with this name or event."""


class PayloadInvalid(BadInput, title="Payload does not fit"):
    """The payload does not fit the job's model."""


class KeyConflict(BadInput, status=409, title="Key used with another payload"):
    """A run of this job used the key with another payload."""


class UnknownRun(BadInput, status=404, title="Unknown run"):
    """No run has this id."""


class RunNotMovable(BadInput, status=409, title="Run is in another status"):
    """The run's status does not allow what was asked for."""


class StageRefused(BadInput, status=409, title="Stage change refused"):
    """The stage change makes no sense. Nothing was changed."""


class GateClosed(SwitchyardError, status=409, title="Not complete"):
    """The job's migration cannot be called complete yet. Nothing was changed."""


class EffectHeld(SwitchyardError):
    """A plan tried to do something. A plan must only say what it would do."""


class CheckFailed(SwitchyardError):
    """A check of `cutover verify` failed."""


class Unauthorized(SwitchyardError, status=401, title="Unauthorized"):
    """No valid credentials came with the request."""


class Forbidden(SwitchyardError, status=403, title="Not allowed"):
    """The request's sender may not do that."""


class BackendUnavailable(SwitchyardError, status=503, title="Backend unavailable"):
    """A queue is unreachable. Its runs stay pending, and the relay sends them later."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what if fix is None else f"{what}; {fix}")
        self.fix = fix
        """What to do about it, where that is known."""


class LeaseLost(BaseException):
    """The run was taken over, and this process may no longer write to it. It is a BaseException so
    that a body's own `except Exception` does not catch it."""


class MigrationUnderWay(SwitchyardError, status=503, title="Migration under way"):
    """Another migration of the same database did not end in time. Nothing was changed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"another migration of this database is under way, still after {seconds} s"
        )


# What a job's body may raise to steer its retries; any other exception is retried with a gap.


class NonRetriable(SwitchyardError):
    """Retrying cannot help, so the step fails at once."""


class RetryAfter(SwitchyardError):
    """Try again, but not before a given time. It counts as an attempt."""

    def __init__(self, message: str, when: datetime | timedelta) -> None:
        super().__init__(message)
        self.when = when
        """A time in UTC, or a wait that begins now."""


class NotDone(SwitchyardError):
    """An at-most-once step certainly had no effect. It is tried again after a gap."""


class OutcomeUnknown(SwitchyardError):
    """An at-most-once step began, and its effect may or may not have happened. The step is never
    begun again, not even by a retry of its run. A body may catch this and continue."""


class StepFailed(SwitchyardError):
    """A step used up its attempts or raised NonRetriable. A body may catch this and continue."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.reason = reason

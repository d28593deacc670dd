"""One tree of errors: whatever the product raises on purpose derives from SwitchyardError."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import islice
from typing import Any, Self

MOST_MISFITS = 50
"""Misfits named in one answer."""
_OBJECTS = ("dict_type", "model_type", "model_attributes_type")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The part of a message that names what was probably meant; empty where nothing is near."""
    near = get_close_matches(wrong, [str(name) for name in known], 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class SwitchyardError(Exception):
    """Something this product refuses or could not do; the message is fit to show to its user."""

    status = 500
    """HTTP status an entrance answers with."""
    title = "Internal error"
    retry_after: float | None = None
    """Seconds after which to try again, where it says so."""

    def __init_subclass__(cls, *, status: int | None = None, title: str | None = None) -> None:
        cls.status = cls.status if status is None else status
        cls.title = cls.title if title is None else title


class BadInput(SwitchyardError, status=422, title="Invalid input"):
    """The caller's input is wrong; nothing was changed."""

    errors: Sequence[dict[str, str]] = ()
    """Each misfit, where there may be several: its `detail`, and the JSON `pointer` to it."""

    @classmethod
    def misfits(cls, of: str, misfits: Iterable[Any], under: str = "#") -> Self:
        """What pydantic's errors() say of the value at the pointer `under`; the message has the
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
    """A setting is missing or wrong; the process must not start."""


class SecretKeyMissing(SettingsError, status=503, title="SECRET_KEY is not set"):
    """Nothing can be signed, nor a signature checked, without SECRET_KEY."""


class UnknownJob(BadInput, status=404, title="Unknown job"):
    """No job of this name (or event) is in the catalogue."""


class PayloadInvalid(BadInput, title="Payload does not fit"):
    """The payload does not fit the job's model."""


class KeyConflict(BadInput, status=409, title="Key used with another payload"):
    """The key is already used by a run of this job with another payload."""


class UnknownRun(BadInput, status=404, title="Unknown run"):
    """No run has this id."""


class RunNotMovable(BadInput, status=409, title="Run is in another status"):
    """The run is in a status that does not allow what was asked."""


class StageRefused(BadInput, status=409, title="Stage change refused"):
    """The stage change makes no sense; nothing was changed."""


class GateClosed(SwitchyardError, status=409, title="Not complete"):
    """Something still speaks against calling a job's migration complete; nothing was changed."""


class EffectHeld(SwitchyardError):
    """A plan tried to do something, while plans are only to say what they would do."""


class CheckFailed(SwitchyardError):
    """A check of `cutover verify` does not hold."""


class Unauthorized(SwitchyardError, status=401, title="Unauthorized"):
    """No valid credentials came with the request."""


class Forbidden(SwitchyardError, status=403, title="Not allowed"):
    """Whoever sent the request may not do that."""


class BackendUnavailable(SwitchyardError, status=503, title="Backend unavailable"):
    """A queue could not be reached; its runs stay pending and the relay sends them again."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what if fix is None else f"{what}; {fix}")
        self.fix = fix
        """What to do, where that is known."""


class LeaseLost(BaseException):
    """The run was taken over; this process may write nothing more of it. A BaseException, so that a
    body's own `except Exception` does not go on with it."""


class MigrationUnderWay(SwitchyardError, status=503, title="Migration under way"):
    """Another migration of the same database did not end in time; nothing was changed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"another migration of this database is under way, still after {seconds} s"
        )


# What a job's body may raise to steer its retries; any other exception is retried with a gap.


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

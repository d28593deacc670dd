"""A job that fails with whatever a body or a library may raise."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, OutcomeUnknown, RetryAfter
from app.switchyard.job import job
from tests.support.jobs import Name


class Speechless(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no")


class Quitter(Exception):
    """An error that ends the process of whoever asks what it is."""

    def __str__(self) -> str:
        raise SystemExit("\ud800")


class Halt(BaseException):
    """What a library raises to unwind its own stack."""


ODD: dict[str, BaseException] = {
    "surrogate": ValueError("\ud800"),
    "nul": ValueError("a\0b"),
    "long": ValueError("x" * 3_000_000),
    "speechless": Speechless(),
    "quitter": Quitter(),
    "halt": Halt("\ud800"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("\ud800"),
    "naive": RetryAfter("\0", datetime(2030, 1, 1)),  # noqa: DTZ001 - that is what is wrong with it
    "endless": RetryAfter("later", timedelta.max),
    "no time": RetryAfter("later", 30),  # type: ignore[arg-type]
    "final": NonRetriable("\0\ud800"),
    "unknown": OutcomeUnknown("\0\ud800"),
}


@job("odd", event="test.odd", payload=Name, queue="tests", gaps=(0.0,), attempts=3)
def odd(ctx: Context, payload: Name) -> None:
    """Raises ODD[its name], in its body or in a step of the kind named before a slash."""
    where, _, name = payload.name.rpartition("/")

    def fail(_tx: Session) -> None:
        raise ODD[name]

    if where == "name":
        ctx.step.run("\0" if name == "nul" else "s" * 250, lambda _tx: None)
    elif where:
        getattr(ctx.step, where)("step", fail)
    raise ODD[name]

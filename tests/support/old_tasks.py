"""Functions as an application had them before: RQ runs them, and old call sites enqueue them."""

from __future__ import annotations

import os
import time
from os import system
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from app.switchyard import dispatch
from queues import job
from queues.backend import connect

__all__ = ["system"]

REDIS_URL = os.environ.get("OLD_REDIS_URL", "redis://127.0.0.1:1/0")

ENGINE = create_engine("sqlite://", poolclass=QueuePool)


def note(path: str, line: str) -> str:
    """Write down that it was here."""
    with Path(path).open("a") as out:
        out.write(f"{line}\n")
    return line


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def add(x: int, y: int = 1) -> int:
    return x + y


def fail(path: str = "", times: int = 10**6) -> str:
    """Fail the first `times` times."""
    if path and len(lines(Path(path))) >= times:
        return "at last"
    if path:
        note(path, "try")
    raise RuntimeError("on purpose")


def nap(seconds: float, path: str = "") -> str:
    if path:
        note(path, "begun")
    time.sleep(seconds)
    if path:
        note(path, "done")
    return "woke"


def connected() -> str:
    """Whose connection of the app's own pool it gets."""
    with ENGINE.connect() as connection:
        opened_by = connection.connection.info.setdefault("opened_by", os.getpid())
        return "its own" if opened_by == os.getpid() else "another process's"


def die() -> None:
    os._exit(3)


def succeeded(job: Any, connection: Any, result: Any, *_: Any) -> None:
    connection.rpush("called", f"success {result}")


def failed(job: Any, connection: Any, kind: Any, value: Any, _trace: Any) -> None:
    connection.rpush("called", f"failure {kind.__name__} {value}")


class Till:
    """Something that only a pickle carries."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ring(self, line: str) -> str:
        return note(self.path, line)

    @classmethod
    def count(cls, notes: int) -> int:
        return notes + 1

    @staticmethod
    def twice(notes: int) -> int:
        return 2 * notes


def ring(till: Till, line: str) -> str:
    return till.ring(line)


def mark(name: str, fail_at: int = 0) -> str:
    """In its place there is the job `old-mark`."""
    raise AssertionError(f"{name}: the old function is not called any more")


def order(name: str) -> str:
    """Asks for a run."""
    return dispatch("noop", {"name": name}).id


def pay(payout: str, cents: int) -> str:
    """In its place there is the job `old-pay`, whose fields have other names."""
    return f"old {payout} {cents}"


@job("tests", connection=connect(REDIS_URL))  # type: ignore[untyped-decorator]
def decorated(name: str) -> str:
    """In its place there is the job `old-decorated`."""
    raise AssertionError(name)

"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 90.0
"""The machine may be busy: how long anything takes is no matter of the tests."""
LONGEST_PAUSE = 0.2
"""Seconds between two looks, once it takes long: to look costs as well."""
T = TypeVar("T")


def until(
    check: Callable[[], T],
    why: object = "it never came to hold",
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    every_seconds: float = 0.02,
) -> T:
    """What `check` gives once it is true; if it never is, `why` is said, or what that gives."""
    end = time.monotonic() + patience_seconds
    while not (found := check()):
        if time.monotonic() > end:
            raise AssertionError(why() if callable(why) else why)
        time.sleep(every_seconds)
        every_seconds = max(every_seconds, min(1.1 * every_seconds, LONGEST_PAUSE))
    return found

"""How times, lengths of time, counts and JSON are shown to people."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from app.switchyard.text import masked

_UNITS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))


def when(moment: datetime | None) -> str:
    """A time in UTC, to the second."""
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float | None) -> str:
    """A length of time in two digits or so: `40 ms`, `1.2 s`, `3.5 min`, `2 d`."""
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else _whole(seconds)
    return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"


def _whole(seconds: float) -> str:
    unit, length = next((unit, length) for unit, length in _UNITS if seconds >= length)
    return f"{seconds / length:.0f} {unit}"


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago that was, or how soon it is."""
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{_rounded(seconds)} ago" if seconds > 0 else f"in {_rounded(-seconds)}"


def between(begin: datetime | None, end: datetime | None) -> float | None:
    """Seconds from one time to another; None where one of them is not known."""
    return None if begin is None or end is None else (end - begin).total_seconds()


def number(count: int) -> str:
    """A count with its thousands apart."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, noun: str, shown: Callable[[int], str] = str) -> str:
    """A count and its noun, which takes an s: `0 runs`, `1 run`, `2 open runs`."""
    return f"{shown(count)} {noun}{'' if count == 1 else 's'}"


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else _whole(max(seconds, 60.0))


def pretty(value: Any) -> str:
    """JSON for people, with what is called a secret hidden."""
    return json.dumps(masked(value), indent=2, ensure_ascii=False)

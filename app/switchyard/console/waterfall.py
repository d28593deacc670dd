"""The waterfall of a run: its steps, attempts, waits and hand-offs over time, as geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from app.switchyard.console.words import duration

WIDTH = 1000.0
WAITING = 0.35
"""Of the width, at most, is for time in which nothing was done: a sleep of a day must leave room
for the steps of a second before and after it."""
THINNEST = 4.0
"""What took no time can be seen."""
BODY = "(body)"


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time."""

    begin: float
    end: float
    kind: str
    """A backend, `failed`, `queued` or `waiting`."""
    says: str
    backend: str | None = None
    """On which a failed attempt was."""
    x: float = 0.0
    width: float = 0.0


@dataclass(slots=True)
class Line:
    """One step, or the wait before the first one."""

    name: str
    status: str = ""
    backend: str | None = None
    attempts: int = 1
    bars: list[Bar] = field(default_factory=list)

    def took(self) -> float | None:
        """Seconds from its first attempt's begin to its last one's end."""
        if not self.bars:
            return None
        return max(bar.end for bar in self.bars) - min(bar.begin for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """What is drawn: lines of bars, and where the run changed sides."""

    lines: list[Line]
    handoffs: list[dict[str, Any]]
    broken: bool
    """Whether waits are drawn shorter than the rest."""


def waterfall(run: dict[str, Any], now: datetime) -> Waterfall:
    """Of a run as its page has it."""
    end = _at(run["ended_at"]) or now.timestamp()
    begin = _at(run["created_at"]) or end
    lines = list(_lines(run, begin, end))
    busy = [(bar.begin, bar.end) for line in lines for bar in line.bars if _is_work(bar)]
    scale = Scale(begin, max([end, *(bar.end for line in lines for bar in line.bars)]), busy)
    for line in lines:
        line.bars = [_placed(bar, scale) for bar in line.bars]
    moves = [move | {"x": f"{scale(_at(move['at']) or end):.1f}"} for move in run["handoffs"]]
    return Waterfall(lines, moves, scale.broken)


def _lines(run: dict[str, Any], begin: float, end: float) -> Iterator[Line]:
    started = _at(run["started_at"])
    queued = Bar(begin, started or end, "queued", f"queued {duration((started or end) - begin)}")
    yield Line("queued", bars=[queued])
    failed: dict[str, list[Bar]] = {}
    for one in run["failures"]:
        at = _at(one["at"]) or end
        says = f"attempt {one['attempt']} on {one['backend']}: {one['error']}: {one['message']}"
        bar = Bar(_at(one["began_at"]) or at, at, "failed", says[:300], one["backend"])
        failed.setdefault(one["step"] or BODY, []).append(bar)
    for step in run["steps"]:
        bars = failed.pop(step["name"], [])
        over = step["status"] == "waiting" and (run["ended_at"] or _is_past(step["until"], end))
        yield Line(
            *(step["name"], "" if over else step["status"], step["backend"], step["attempts"]),
            bars=sorted([*bars, *_last(step, bars, end)], key=lambda bar: bar.begin),
        )
    for name, bars in failed.items():
        yield Line(name, "failed", attempts=len(bars), bars=bars)


def _last(step: dict[str, Any], failed: list[Bar], end: float) -> Iterator[Bar]:
    """The stretch that a step's row itself speaks of: its last attempt, or its wait."""
    at, status = _at(step["updated_at"]) or end, step["status"]
    began = _at(step["began_at"]) or at
    if status == "waiting":
        until = min(_at(step["until"]) or end, end)
        yield Bar(began, max(until, began), "waiting", f"waited {duration(max(until - began, 0))}")
    elif status == "begun":
        yield Bar(began, end, step["backend"], f"begun on {step['backend']}")
    elif status == "done" or not failed:
        says = f"{status} on {step['backend']} in {duration(at - began)}"
        yield Bar(
            began, at, step["backend"] if status == "done" else "failed", says, step["backend"]
        )


class Scale:
    """Time to the right; where nothing was done it may run faster."""

    def __init__(self, begin: float, end: float, busy: Iterable[tuple[float, float]]) -> None:
        self._spans: list[tuple[float, float, float]] = []
        """From, to, and how much of the width a second has."""
        merged: list[list[float]] = []
        for one, other in sorted(busy):
            if merged and one <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], other)
            else:
                merged.append([one, other])
        work = sum(other - one for one, other in merged)
        idle = max(end - begin - work, 0.0)
        self.broken = bool(work) and idle > WAITING * (work + idle)
        slow = WIDTH * (1 - WAITING) / work if self.broken else WIDTH / max(work + idle, 1e-9)
        fast = WIDTH * WAITING / idle if self.broken else slow
        at = begin
        for one, other in merged:
            self._spans += [(at, one, fast), (one, other, slow)]
            at = other
        self._spans.append((at, end, fast))

    def __call__(self, moment: float) -> float:
        """How far to the right that is."""
        return sum(max(0.0, min(moment, end) - begin) * by for begin, end, by in self._spans)


def _placed(bar: Bar, scale: Scale) -> Bar:
    x = min(scale(bar.begin), WIDTH - THINNEST)
    width = max(scale(bar.end) - x, THINNEST)
    return replace(bar, x=round(x, 1), width=round(width, 1))


def _is_work(bar: Bar) -> bool:
    return bar.kind not in ("queued", "waiting")


def _is_past(moment: str | None, now: float) -> bool:
    at = _at(moment)
    return at is not None and at <= now


def _at(moment: str | datetime | None) -> float | None:
    if moment is None:
        return None
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return at.timestamp()

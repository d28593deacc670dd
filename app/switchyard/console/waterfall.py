"""The waterfall of a run: its steps, attempts, waits and hand-offs over time, as geometry."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

from app.switchyard.words import duration

WIDTH = 1000.0
WAITING = 0.35
"""The largest share of the width for idle time: a sleep of a day must leave room for the steps of a
second before and after it."""
THINNEST = 4.0
"""The least width, so that a bar of no duration can be seen."""
BODY = "(body)"


@dataclass(slots=True)
class Bar:
    """A stretch of time, in Unix seconds, and its position in the picture."""

    begin: float
    end: float
    kind: str
    """A backend, `failed`, `queued` or `waiting`."""
    says: str
    backend: str | None = None
    """The backend of a failed attempt."""
    x: float = 0.0
    width: float = 0.0

    def place(self, scale: Scale) -> None:
        """Set its position."""
        self.x = round(min(scale(self.begin), WIDTH - THINNEST), 1)
        self.width = round(max(scale(self.end) - self.x, THINNEST), 1)


@dataclass(slots=True)
class Line:
    """One step, or the wait before the first one."""

    name: str
    status: str = ""
    backend: str | None = None
    attempts: int = 1
    bars: list[Bar] = field(default_factory=list)

    def took(self) -> float | None:
        """The seconds from the beginning of its first attempt to the end of its last."""
        if not self.bars:
            return None
        return max(bar.end for bar in self.bars) - min(bar.begin for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The picture: lines of bars, and where the run changed sides."""

    lines: list[Line]
    handoffs: list[dict[str, Any]]
    broken: bool
    """Whether waits are drawn on a shorter scale than the rest."""


def waterfall(run: dict[str, Any], now: datetime) -> Waterfall:
    """The waterfall of a run as story() returns it."""
    end = (run["ended_at"] or now).timestamp()
    lines = list(_lines(run, end))
    bars = [bar for line in lines for bar in line.bars]
    busy = [(bar.begin, bar.end) for bar in bars if bar.kind not in ("queued", "waiting")]
    scale = Scale(run["created_at"].timestamp(), max([end, *(bar.end for bar in bars)]), busy)
    for bar in bars:
        bar.place(scale)
    moves = [move | {"x": f"{scale(move['at'].timestamp()):.1f}"} for move in run["handoffs"]]
    return Waterfall(lines, moves, scale.broken)


def _lines(run: dict[str, Any], end: float) -> Iterator[Line]:
    begin, started = run["created_at"].timestamp(), _at(run["started_at"], end)
    waited = f"queued {duration(started - begin)}"
    yield Line("queued", bars=[Bar(begin, started, "queued", waited)])
    failed: dict[str, list[Bar]] = defaultdict(list)
    for one in run["failures"]:
        at = one["at"].timestamp()
        says = f"attempt {one['attempt']} on {one['backend']}: {one['error']}: {one['message']}"
        bar = Bar(_at(one["began_at"], at), at, "failed", says[:300], one["backend"])
        failed[one["step"] or BODY].append(bar)
    for step in run["steps"]:
        bars = failed.pop(step["name"], [])
        if last := _last(step, bool(bars), end):
            bars.append(last)
        over = step["status"] == "waiting" and (
            run["ended_at"] or (step["until"] and step["until"].timestamp() <= end)
        )
        line = Line(step["name"], "" if over else step["status"], step["backend"], step["attempts"])
        line.bars = sorted(bars, key=lambda bar: bar.begin)
        yield line
    for name, bars in failed.items():
        yield Line(name, "failed", attempts=len(bars), bars=bars)


def _last(step: dict[str, Any], has_failed: bool, end: float) -> Bar | None:
    """The stretch that a step's own row describes: its last attempt, or its wait."""
    at, status, backend = step["updated_at"].timestamp(), step["status"], step["backend"]
    began = _at(step["began_at"], at)
    if status == "waiting":
        until = max(min(_at(step["until"], end), end), began)
        return Bar(began, until, "waiting", f"waited {duration(until - began)}")
    if status == "begun":
        return Bar(began, end, backend, f"begun on {backend}")
    if status == "done" or not has_failed:
        says = f"{status} on {backend} in {duration(at - began)}"
        return Bar(began, at, backend if status == "done" else "failed", says, backend)
    return None


class Scale:
    """The scale of time, from left to right. Idle time may take less width."""

    def __init__(self, begin: float, end: float, busy: Iterable[tuple[float, float]]) -> None:
        merged: list[list[float]] = []
        for one, other in sorted(busy):
            if merged and one <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], other)
            else:
                merged.append([one, other])
        if merged:  # by another machine's clock it may have begun before it was created
            begin = min(begin, merged[0][0])
        work = sum(other - one for one, other in merged)
        idle = max(end - begin - work, 0.0)
        self.broken = bool(work) and idle > WAITING * (work + idle)
        slow = WIDTH * (1 - WAITING) / work if self.broken else WIDTH / max(work + idle, 1e-9)
        fast = WIDTH * WAITING / idle if self.broken else slow
        self._end = end
        self._pieces = [(begin, 0.0, fast)]
        """From when on, at which position, and the width of a second there."""
        for edges in merged:
            for moment, by in zip(edges, (slow, fast), strict=True):
                self._pieces.append((moment, self(moment), by))

    def __call__(self, moment: float) -> float:
        """The position of a time, from the left."""
        piece = bisect_right(self._pieces, moment, key=itemgetter(0)) - 1
        begin, position, width = self._pieces[max(piece, 0)]
        return position + max(0.0, min(moment, self._end) - begin) * width


def _at(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()

"""The geometry of the charts: it turns numbers into SVG paths. Their look is in the CSS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.switchyard.operations.trends import Trend

GAP = 0.15
"""The share of a bar's width that is left free on its right."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars for the serverless side's runs upward from the middle and the legacy side's downward,
    with failed runs at the outer ends. One unit is a bucket to the right, and a hundredth of the
    tallest bar up."""

    serverless: str
    serverless_failed: str
    legacy: str
    legacy_failed: str
    width: int
    most: int
    """The number of runs in the tallest bar."""


def bars(serverless: Trend, legacy: Trend) -> Bars:
    """The bars of both sides, on the same scale."""
    heights = [
        done + failed
        for side in (serverless, legacy)
        for done, failed in zip(side.succeeded, side.failed, strict=True)
    ]
    most = max([*heights, 1])
    up, up_failed = _paths(serverless, most, -1)
    down, down_failed = _paths(legacy, most, 1)
    return Bars(up, up_failed, down, down_failed, len(serverless.failed), most)


def _paths(trend: Trend, most: int, way: int) -> tuple[str, str]:
    done, failed = [], []
    for number, (good, bad) in enumerate(zip(trend.succeeded, trend.failed, strict=True)):
        middle = way * _share(good, most) + 0.0  # no -0
        if good:
            done.append(_bar(number, 0, middle))
        if bad:
            failed.append(_bar(number, middle, way * _share(good + bad, most)))
    return "".join(done), "".join(failed)


def _share(count: int, most: int) -> float:
    # The least height that can be seen.
    return max(100 * count / most, 3.0) if count else 0.0


def _bar(number: int, begin: float, end: float) -> str:
    return f"M{number} {begin:.4g}H{number + 1 - GAP:.4g}V{end:.4g}H{number}Z"


def lines(spans: Sequence[tuple[float, float] | None], most: float) -> tuple[str, str]:
    """Lines for p50 and p95, broken where nothing ended. `most` seconds are 100 units up."""
    return _line([s and s[0] for s in spans], most), _line([s and s[1] for s in spans], most)


def _line(values: Sequence[float | None], most: float) -> str:
    path, joined = [], False
    for number, value in enumerate(values):
        if value is not None:
            y = f"{100 - 100 * value / (most or 1):.4g}"
            # A short level line for each span, so that a single one can be seen.
            path.append(f"{'L' if joined else 'M'}{number + 0.15:.4g} {y}L{number + 0.85:.4g} {y}")
        joined = value is not None
    return "".join(path)

"""The guardrail's tests: against figures from the literature, and how often they are wrong."""

from __future__ import annotations

from random import Random

import pytest

from app.switchyard.cutover.guardrail import (
    FEWEST,
    FIRST_STEP,
    MARGIN,
    SLACK_SECONDS,
    SLOWER,
    SURE,
    Sample,
    breach,
    mann_whitney,
    newcombe,
    step_back,
    wilson,
)
from flags import StageRow

Z95 = 1.959964


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # The examples of Newcombe's paper of 1998, his method 10.
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe(*counts, Z95)
    assert (round(found[0], 4), round(found[1], 4)) == (low, high)


def test_wilson() -> None:
    # The examples of Newcombe's other paper of 1998, of one proportion, method 3.
    low, high = wilson(81, 263, Z95)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0, 20, Z95)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_mann_whitney() -> None:
    # The example in SciPy's documentation of mannwhitneyu, its asymptotic p of 0.1113 one-sided.
    males, females = [19, 22, 16, 29, 24], [20, 11, 17, 12]
    assert mann_whitney(males, females) == pytest.approx(0.11134688653314041 / 2, abs=1e-9)
    assert mann_whitney(females, males) > 0.9
    assert mann_whitney([1.0] * 40, [1.0] * 40) == 1.0
    # Swapped and tied: the two chances make one, but for the continuity correction.
    both = mann_whitney([1, 2, 2, 3], [2, 2, 3, 4]) + mann_whitney([2, 2, 3, 4], [1, 2, 2, 3])
    assert 1 < both < 1.3


def drawn(seed: Random, runs: int, fails: float, scale: float = 1.0, more: float = 0) -> Sample:
    """Draw runs that fail so often; most take a second or so, some take a hundred times that."""
    seconds = [scale * seed.lognormvariate(0, 1.5) + more for _ in range(runs)]
    return Sample(seconds, sum(seed.random() < fails for _ in range(runs)))


def test_it_fires_where_it_should() -> None:
    seed = Random(1)
    legacy = drawn(seed, 500, 0.01)
    assert "failed runs" in (breach(drawn(seed, 60, 0.3), legacy) or "")
    assert "slow runs" in (breach(drawn(seed, 60, 0.01, scale=12, more=5), legacy) or "")
    assert breach(drawn(seed, FEWEST - 1, 1.0), legacy) is None
    assert breach(drawn(seed, 60, 1.0), drawn(seed, FEWEST - 1, 0.0)) is None


@pytest.mark.minutes
def test_two_sides_alike_do_not_set_it_off_in_a_month() -> None:
    """Every five minutes it compares an hour's 40 runs with the last 200 of the legacy side."""
    seed, fired, looks = Random(2), 0, 0
    for fails in (0.0, 0.02, 0.2):
        legacy = drawn(seed, 2000, fails)
        serverless = drawn(seed, 40 * 24 * 10, fails)
        failed = [seed.random() < fails for _ in serverless.seconds]
        for start in range(0, len(failed) - 40, 3):
            hour = Sample(serverless.seconds[start : start + 40], sum(failed[start : start + 40]))
            base = start % 1800
            last = Sample(legacy.seconds[base : base + 200], round(200 * fails))
            fired += breach(hour, last) is not None
            looks += 1
    assert looks > 24 * 12 * 30
    assert fired == 0


@pytest.mark.minutes
def test_at_the_margin_it_fires_no_oftener_than_it_says() -> None:
    """Runs that are exactly as much worse as is allowed are the null hypothesis at its worst."""
    seed, slow, failing, looks = Random(3), 0, 0, 3000
    for _ in range(looks):
        legacy = drawn(seed, 100, 0.05)
        allowed = drawn(seed, 50, 0, scale=SLOWER, more=SLACK_SECONDS)
        slow += breach(Sample(allowed.seconds, 0), legacy) is not None
        failed = sum(seed.random() < 0.05 + MARGIN for _ in range(200))
        failing += breach(Sample([0.0] * 200, failed), legacy) is not None
    expected = (1 - SURE) * looks
    assert slow <= 3 * expected
    assert failing <= 3 * expected


@pytest.mark.parametrize(
    ("stage", "percent", "to"),
    [
        ("live", None, ("ramp", FIRST_STEP)),
        ("ramp", 100.0, ("ramp", FIRST_STEP)),
        ("ramp", 11.0, ("ramp", FIRST_STEP)),
        ("ramp", FIRST_STEP, ("legacy", None)),
        ("ramp", 0.1, ("legacy", None)),
    ],
)
def test_at_most_two_steps_back(stage: str, percent: float | None, to: tuple[str, float]) -> None:
    row = StageRow("a", stage, percent, 1)
    assert step_back(row) == to
    assert step_back(row, provided=True) == ("legacy", None)

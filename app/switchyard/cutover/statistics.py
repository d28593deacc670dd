"""The two tests of the guardrail, one-sided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist


def wilson(hits: int, of: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (https://doi.org/10.1080/01621459.1927.10502953)."""
    share, square = hits / of, z * z / of
    middle = (share + square / 2) / (1 + square)
    half = sqrt(share * (1 - share) * square + square * square / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(hits: int, of: int, other_hits: int, other_of: int, z: float) -> tuple[float, float]:
    """An interval of the difference of two proportions, the first less the other: Newcombe's hybrid
    score method, sound for small samples and rare events
    (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I)."""
    one, other = hits / of, other_hits / other_of
    low, high = wilson(hits, of, z)
    other_low, other_high = wilson(other_hits, other_of, z)
    below = sqrt((one - low) ** 2 + (other_high - other) ** 2)
    above = sqrt((high - one) ** 2 + (other - other_low) ** 2)
    return one - other - below, one - other + above


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """The chance that `one` looks this much greater than `other` where it is not: Mann and
    Whitney's rank test, by the normal approximation with ties and continuity corrected
    (https://doi.org/10.1214/aoms/1177730491). 1 where all are equal."""
    counts = [Counter(one), Counter(other)]
    n, m = len(one), len(other)
    ranks, before, ties = 0.0, 0, 0
    for value in sorted(counts[0].keys() | counts[1].keys()):
        tied = counts[0][value] + counts[1][value]
        ranks += counts[0][value] * (before + (tied + 1) / 2)
        ties += tied**3 - tied
        before += tied
    above = ranks - n * (n + 1) / 2
    spread = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    if spread <= 0:
        return 1.0
    return 1 - NormalDist().cdf((above - n * m / 2 - 0.5) / sqrt(spread))

"""What the relay's looks cost while thousands of runs wait at Inngest."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tests.bench.harness import Bench, Row, row
from tests.proof import recovery


def backlog(bench: Bench) -> Iterator[Row]:
    """2,000 three-step runs with the relay and without it, in turn."""
    count = bench.some(2000)
    seen = recovery.backlog(bench.redis_url, count, rounds=16 if bench.full else 3)
    name, without = f"backlog: {count:,} three-step runs on Inngest with the relay", "without it"
    own, bare = (count / statistics.mean(seen[which]) for which in ("with", "without"))
    yield row(name, own, bare, without, "runs a second")
    yield row(f"{name}, deliveries", seen["deliveries"], count, "needed", "most", less=True)
    name, late = "backlog: how late delayed runs on RQ are meanwhile", max(seen["late"], 0.001)
    yield row(name, late, recovery.LATE_SECONDS, "promised", "seconds, worst", less=True)

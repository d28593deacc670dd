"""Real processes, and all that may happen to them, from one seed: see tests.proof.platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.platform import Platform

ROUNDS = 60
DRAIN_SECONDS = 180.0


@pytest.mark.timeout(600)
def test_whatever_happens_each_effect_happens_once(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    seed = 7 if database_url.startswith("sqlite") else 11
    platform = Platform(seed, database_url, redis_url, tmp_path)
    try:
        platform.tend()
        for _ in range(ROUNDS):
            platform.round()
        assert platform.drain(DRAIN_SECONDS), f"{platform.left()} runs do not come to their end"
        assert (dict(platform.lost()), dict(platform.duplicated())) == ({}, {})
        assert platform.failed() == []
        assert platform.flips > 10
    finally:
        platform.stop()

"""Real processes, and all that may happen to them, from one seed: see tests.proof.schedules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.__main__ import PROFILES, unrest


@pytest.mark.minutes
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("database", "seed"), [("sqlite", 7), ("postgres", 11)])
def test_whatever_happens_each_effect_happens_once(
    database: str, seed: int, tmp_path: Path
) -> None:
    done = unrest(seed, database, PROFILES["test"], tmp_path)
    assert (done["lost"], done["duplicated"], done["wrong"]) == (0, 0, [])
    assert done["flips"] >= PROFILES["test"].flips

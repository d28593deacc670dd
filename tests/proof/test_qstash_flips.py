"""A thousand delayed runs, each done exactly once, whatever QStash and the flag do meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.flips import delayed_through_flips, yard
from tests.support.marks import marks

RUNS = 1000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_thousand_delayed_runs_through_flips(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with yard(database_url, redis_url, tmp_path) as here:
        delayed_through_flips(here, "child", [{"name": f"run {n}"} for n in range(RUNS)])
        assert marks(here.made.db) == {f"run {n}": 1 for n in range(RUNS)}
        given = here.by_backend()
        assert min(given["rq"], given["qstash"]) > RUNS / 10

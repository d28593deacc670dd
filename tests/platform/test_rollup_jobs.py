"""The two rollup jobs: every day that waits is summed up, and a month is closed and stated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.platform.statements.models import Statement
from tests.platform.test_rollup import agree, roll_dirty
from tests.support.months import Months
from tests.support.sides import Side, in_memory


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Side]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    env = {"SWITCHYARD_JOBS": "app.platform.earnings.jobs,app.platform.statements.jobs"}
    env |= {"STORAGE_URL": (tmp_path / "storage").as_uri(), "PLATFORM_NAME": "Fanhouse"}
    with in_memory(url, **env) as made:
        yield made


@pytest.fixture
def lived(on: Side, tmp_path: Path) -> Iterator[Months]:
    """Two creators, with sales of January and February of which no sum is made yet."""
    months = Months(on.environ["DATABASE_URL"], tmp_path / "storage")
    months.creator("ana", "bob")
    months.sale("s1", 700, "2025-01-30", creator="bob")
    months.sale("s2", 900, "2025-02-03", fee=100)
    yield months
    months.db.dispose()


def test_all_days_that_wait_are_rolled_up_and_then_only_the_one_asked_for(
    on: Side, lived: Months
) -> None:
    for key, days in ((None, 3), ("again", 1)):
        run = on.dispatch("daily-earnings-rollup", {"targetDate": "2025-12-31"}, key=key)
        (row,) = on.finish(run)
        assert json.loads(row.result)["days"] == days, row.error
    assert not on.dispatch("daily-earnings-rollup", {"targetDate": "2025-12-31"}).created
    with lived.db.begin() as tx:
        agree(tx)


def test_a_month_is_closed_and_stated(on: Side, lived: Months) -> None:
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"}))
    assert row.status == "succeeded", row.error
    done = json.loads(row.result)
    assert (done["statements"], done["statementsWrong"]) == (2, [])
    assert lived.db.rows(select(Statement.id).order_by(Statement.id)) == [
        *(("ana:2025-02",), ("bob:2025-02",))
    ]
    with lived.db.begin() as tx:
        roll_dirty(tx)  # what is left for the daily one
        agree(tx)


@pytest.mark.usefixtures("lived")
def test_a_month_that_is_not_over_has_no_statement_yet(on: Side) -> None:
    this = f"{on.runtime.store.clock():%Y-%m}"
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": this}))
    assert (row.status, json.loads(row.result)["statements"]) == ("succeeded", 0), row.error

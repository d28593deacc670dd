"""The two rollup jobs: the same again changes nothing, and a month is closed and stated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.platform.earnings import rollup
from app.platform.earnings.models import daily
from app.platform.statements.models import Statement
from tests.platform.test_rollup import agree, roll_dirty, stored
from tests.support.months import Months, history
from tests.support.sides import Side, in_memory

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)
CREATORS = ["ana", "bob", "cem"]
WHO = ("creator_id", "currency", "source")
END = "2025-12-31"


@pytest.fixture
def lived(on: Side, tmp_path: Path) -> Iterator[Months]:
    """Creators with half a year behind them, whose January is closed; then a sale of it came."""
    months = Months(on.environ["DATABASE_URL"], tmp_path / "storage")
    months.creator(*CREATORS)
    history(months, 5, CREATORS, sales=40)
    with months.db.begin() as tx:
        for day in rollup.dirty(tx, date(2025, 2, 1)):
            rollup.roll_day(tx, day)
    months.make_page(JANUARY)
    months.sale("late", 700, "2025-01-30", creator="bob")
    yield months
    months.db.dispose()


def check(months: Months) -> None:
    """Every sum is what the rows say, no day is dirty, and statements are the ledger's."""
    with months.db.begin() as tx:
        agree(tx)
    months.make_page(FEBRUARY)
    with months.transaction() as session:
        rows = session.execute(select(Statement.id, Statement.document)).all()
    assert {row.id[-2:] for row in rows} == {"01", "02"}
    stated = {
        row.id
        for row in rows
        for one in json.loads(row.document)["currencies"]
        if "correction" in {line["kind"] for line in one["lines"]}
    }
    assert stated == {"bob:2025-02"}, "January's is final"


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Side]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    env = {"SWITCHYARD_JOBS": "app.platform.earnings.jobs,app.platform.statements.jobs"}
    env |= {"STORAGE_URL": (tmp_path / "storage").as_uri(), "PLATFORM_NAME": "Fanhouse"}
    with in_memory(url, **env) as made:
        yield made


def test_the_same_day_again_is_the_same_run_and_another_the_same_rows(
    on: Side, lived: Months
) -> None:
    first = on.dispatch("daily-earnings-rollup", {"targetDate": END})
    assert not on.dispatch("daily-earnings-rollup", {"targetDate": END}).created
    on.finish(first)
    check(lived)
    with lived.db.begin() as tx:
        before = stored(tx, daily, "day", *WHO)
    again = on.dispatch("daily-earnings-rollup", {"targetDate": END}, key="again")
    (row,) = on.finish(again)
    assert json.loads(row.result)["days"] == 1, "only a day without rows is looked at again"
    with lived.db.begin() as tx:
        assert stored(tx, daily, "day", *WHO) == before


def test_a_month_is_closed_and_stated(on: Side, lived: Months) -> None:
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"}))
    assert row.status == "succeeded", row.error
    done = json.loads(row.result)
    with lived.db.begin() as tx:
        new = tx.scalar(select(func.count()).where(Statement.month == FEBRUARY))
        assert (done["statements"], done["statementsWrong"]) == (new, [])
        # What is left for the daily one.
        roll_dirty(tx)
    check(lived)


@pytest.mark.usefixtures("lived")
def test_a_month_that_is_not_over_has_no_statement_yet(on: Side) -> None:
    this = f"{on.runtime.store.clock():%Y-%m}"
    (row,) = on.finish(on.dispatch("monthly-earnings-rollup", {"targetMonth": this}))
    assert (row.status, json.loads(row.result)["statements"]) == ("succeeded", 0), row.error

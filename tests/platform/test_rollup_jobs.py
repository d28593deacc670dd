"""The two rollup jobs on both backends and both databases: sums and statements come out the same
wherever a process is killed, and whichever side a run ends on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.platform.earnings import jobs as analytics
from app.platform.earnings import rollup
from app.platform.earnings.models import (
    Earning,
    daily,
    dirty_days,
    lifetime,
    monthly,
    platform_days,
)
from app.platform.statements.make import make_page
from app.platform.statements.models import Statement
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runtime import Runtime
from tests.conftest import new_database
from tests.platform.test_rollup import reckoned, stored
from tests.support.dying import PLACES, dying
from tests.support.months import Months, history
from tests.support.sides import Side, both, environment, free_port, fresh, relaying
from tests.support.standins import InngestStandIn

JANUARY, FEBRUARY = date(2025, 1, 1), date(2025, 2, 1)
CREATORS = ["ana", "bob", "cem"]
WHO = ("creator_id", "currency", "source")
END = "2025-12-31"


def settings(folder: Path) -> dict[str, str]:
    return {
        "SWITCHYARD_JOBS": "app.platform.earnings.jobs,app.platform.statements.jobs",
        "STORAGE_URL": (folder / "storage").as_uri(),
        "PLATFORM_NAME": "Fanhouse",
    }


def lived(url: str, folder: Path, sales: int = 40) -> Months:
    """Creators with half a year behind them, whose January is closed; then a sale of it came."""
    months = Months(url, folder / "storage")
    months.creator(*CREATORS)
    history(months, 5, CREATORS, sales=sales)
    with months.db.begin() as tx:
        for day in rollup.dirty(tx, date(2025, 2, 1)):
            rollup.roll_day(tx, day)
        rollup.roll_month(tx, JANUARY)
    with months.transaction() as tx:
        make_page(tx, months, JANUARY, "")
    months.sale("late", 700, "2025-01-30", creator="bob")
    return months


def check(months: Months) -> None:
    """Every sum is what the rows say, no day is dirty, and statements are the ledger's."""
    with months.db.begin() as tx:
        assert tx.scalar(select(dirty_days.c.day)) is None
        by_day, by_month, life, platform = reckoned(list(tx.execute(select(Earning))))
        assert stored(tx, daily, "day", *WHO) == by_day
        assert stored(tx, platform_days, "day", "currency", "source") == platform
        kept = stored(tx, lifetime, *WHO[:2])
        assert {k: v for k, v in kept.items() if any(v)} == {
            k: v for k, v in life.items() if any(v)
        }
        there = stored(tx, monthly, "month", *WHO)
        closed = {key[0] for key in there}
        assert there == {key: sums for key, sums in by_month.items() if key[0] in closed}
        for month in closed:
            assert rollup.check_month(tx, month) == []
    with months.transaction() as session:
        make_page(session, months, FEBRUARY, "")
        rows = session.execute(select(Statement.id, Statement.document)).all()
    assert {row.id[-2:] for row in rows} == {"01", "02"}
    stated = {
        row.id
        for row in rows
        for one in json.loads(row.document)["currencies"]
        if "late" in {line["id"] for line in one["lines"]}
    }
    assert stated == {"bob:2025-02"}, "January's is final"


JOBS: dict[str, tuple[dict[str, str], list[tuple[str, str]]]] = {
    "daily-earnings-rollup": ({"targetDate": END}, PLACES[:2]),
    "monthly-earnings-rollup": ({"targetMonth": "2025-02"}, PLACES[2:]),
}


@pytest.mark.parametrize(
    ("job", "backend", "database"),
    [(job, *place) for job, (_, places) in JOBS.items() for place in places],
)
def test_it_dies_everywhere_and_the_sums_are_right(
    job: str,
    backend: str,
    database: str,
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(new_database(database, tmp_path, request))
        port = free_port()
        standin = InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"], gap_scale=0.01)
        stack.enter_context(standin)
        deaths = tmp_path / "deaths"
        quick = {"LEASE_SECONDS": "0.5", "CHECK_SECONDS": "0.3", "INNGEST_DEV": standin.url}
        environ = environment(url, redis_url, **settings(tmp_path), **quick)
        made = fresh(url, environ, None)
        stack.callback(made.db.dispose)
        months = lived(url, tmp_path)
        stack.callback(months.db.dispose)
        on = Side(backend, made, environ, standin=standin)
        stack.enter_context(relaying(made, 0.05))
        environ = {**environ, "SWITCHYARD_CRASH_EACH": str(deaths)}
        stack.enter_context(dying(backend, environ, port, tmp_path / "dying.log"))
        if backend == "inngest":
            standin.sync()
        (row,) = on.finish(on.dispatch(job, JOBS[job][0]), patience_seconds=250.0)
        assert row.status == "succeeded", row.error
        died = set(deaths.read_text().split())
        steps = set(on.steps(row.id))
        assert len(steps) >= 3
        for step in steps:
            assert {f"step.uncommitted@{step}", f"step.recorded@{step}"} <= died
        told = json.loads(row.result)
        if job == "monthly-earnings-rollup":
            new = select(func.count()).where(Statement.month == FEBRUARY)
            with months.db.begin() as tx:
                assert (told["statements"], told["statementsWrong"]) == (tx.scalar(new), [])
                # What is left for the daily one.
                rollup.roll_months(tx, [d for d in all_dirty(tx) if rollup.roll_day(tx, d) >= 0])
        check(months)


def all_dirty(tx: Connection) -> list[date]:
    return rollup.dirty(tx, date(2100, 1, 1))


@pytest.fixture
def on(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Side]:
    with both(database_url, redis_url, tmp_path, **settings(tmp_path)) as made:
        yield made


def test_a_run_changes_sides_between_days(
    on: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    months = lived(on.environ["DATABASE_URL"], tmp_path, sales=80)
    dirty, told, moved = rollup.dirty, threading.Event(), list[Any]()

    def moving(*given: Any) -> Any:
        # In a thread of this process, while the first step of days is being done: that may begin
        # before its dispatch has come back.
        if not moved:
            told.wait()
            made: Runtime = on.made
            moved.append(hand_over(made.store, [run.id], "rq"))
        return dirty(*given)

    monkeypatch.setattr(rollup, "dirty", moving)
    monkeypatch.setattr(analytics, "STEP_DAYS", 5)
    on.backend = "inngest"
    run = on.dispatch("daily-earnings-rollup", {"targetDate": END})
    told.set()
    (row,) = on.finish(run)
    assert (row.status, row.backend, row.reason) == ("succeeded", "rq", "HANDED_OVER"), row.error
    names = [name for name in on.steps(run.id) if name.startswith("days-")]
    assert len(names) >= 2, "it had something left to do over there"
    check(months)
    months.db.dispose()


def test_the_same_day_again_is_the_same_run_and_another_the_same_rows(
    on: Side, tmp_path: Path
) -> None:
    months = lived(on.environ["DATABASE_URL"], tmp_path)
    first = on.dispatch("daily-earnings-rollup", {"targetDate": END})
    assert not on.dispatch("daily-earnings-rollup", {"targetDate": END}).created
    on.finish(first)
    check(months)
    with months.db.begin() as tx:
        before = [stored(tx, t, *(c.name for c in t.primary_key)) for t in (daily, lifetime)]
    on.backend = "inngest"
    again = on.dispatch("daily-earnings-rollup", {"targetDate": END}, key="again")
    (row,) = on.finish(again)
    assert json.loads(row.result)["days"] == 1, "only a day without rows is looked at again"
    with months.db.begin() as tx:
        after = [stored(tx, t, *(c.name for c in t.primary_key)) for t in (daily, lifetime)]
    assert before == after
    months.db.dispose()


def test_a_plan_says_what_the_rollup_writes_and_writes_nothing(on: Side, tmp_path: Path) -> None:
    months = lived(on.environ["DATABASE_URL"], tmp_path)
    day = date(2025, 1, 30)
    with months.db.session() as tx:
        spec = on.made.catalogue["daily-earnings-rollup"]
        assert spec.plan is not None
        planned = spec.plan(tx, spec.payload.model_validate({"targetDate": f"{day}"}), months.now())
    assert (planned["day"], planned["dirty"]) == ("2025-01-30", ["2025-01-30"])
    with months.db.begin() as tx:
        assert rollup.dirty(tx, date(2025, 2, 1)) == [day], "still dirty"
        rollup.roll_day(tx, day)
        written = stored(tx, platform_days, "day", "currency", "source")
        rows = stored(tx, daily, "day", *WHO)
    assert planned["rows"] == sum(key[0] == day for key in rows)
    assert {(one["currency"], one["source"]): one["net"] for one in planned["platform"]} == {
        key[1:]: sums[3] for key, sums in written.items() if key[0] == day
    }
    months.db.dispose()

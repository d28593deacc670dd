"""`cutover cost`: counted from the ledger, priced by the guide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text

from app.switchyard.cutover.cost import USED, cost
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow, StepRow, id_at
from app.switchyard.runtime import Runtime
from tests.support.rows import run_row, step_row
from tests.support.sides import environment, fresh

NOW = datetime(2025, 3, 31, 12, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, redis_url: str) -> Any:
    environ = environment(database_url, redis_url)
    environ["SWITCHYARD_JOBS"] += ",app.platform.mail.jobs"
    made = fresh(database_url, environ, [MemoryBackend()])
    yield made
    made.db.dispose()


def put(made: Runtime, job: str, ago: timedelta, count: int, steps: tuple[int, ...] = ()) -> None:
    """`count` runs of the job, each with steps of so many attempts."""
    at = NOW - ago
    prefix = f"{id_at(at)}{job[:4].encode().hex()}"
    runs = [run_row(f"{prefix}{n:06x}", job, at) for n in range(count)]
    done = [
        step_row(run["id"], at, name=f"s{n}", attempts=tries)
        for run in runs
        for n, tries in enumerate(steps)
    ]
    with made.db.begin() as connection:
        connection.execute(insert(RunRow), runs)
        if done:
            connection.execute(insert(StepRow), done)


def test_what_the_days_would_have_cost(made: Runtime) -> None:
    put(made, "five-steps", timedelta(hours=1), 10, (1, 1, 3))
    put(made, "send-email", timedelta(hours=2), 400)
    put(made, "send-email", timedelta(days=3), 501, (2,))
    put(made, "forgotten", timedelta(days=2), 1)
    put(made, "five-steps", timedelta(days=11), 1000)  # before the window
    found = cost(made.db, made.catalogue, NOW, 10)
    jobs = {row["job"]: row for row in found["jobs"]}
    of = {"job": "five-steps", "service": "inngest"}
    assert jobs["five-steps"] == of | {"runs": 10, "used": 60}
    assert (jobs["send-email"]["runs"], jobs["send-email"]["used"]) == (901, 400 + 2 * 501)
    assert jobs["forgotten"]["used"] == 1
    inngest, qstash = found["services"]
    assert (inngest["used"], inngest["plan"], inngest["usd"]) == (183, "free", 0)
    assert (qstash["used"], qstash["plan"], qstash["usd"]) == (1002, "paid", 10)
    assert (found["usd_a_month"], found["plans_dated"]) == (10, "2025-01")


def test_nothing_and_too_much(made: Runtime) -> None:
    assert cost(made.db, made.catalogue, NOW, 30)["usd_a_month"] == 0
    put(made, "noop", timedelta(hours=1), 8400)
    found = cost(made.db, made.catalogue, NOW, 1)
    assert (found["services"][0]["used"], found["services"][0]["plan"]) == (252_000, None)
    assert found["usd_a_month"] is None


def test_only_the_window_is_read(made: Runtime) -> None:
    """By the primary keys, as an id begins with its time."""
    put(made, "noop", timedelta(days=20), 3000, (1,))
    put(made, "noop", timedelta(hours=1), 5, (1,))
    span = {"first": id_at(NOW - timedelta(days=1)), "end": id_at(NOW)}
    sql = USED.params(span).compile(made.db.engine, compile_kwargs={"literal_binds": True})
    with made.db.begin() as connection:
        if not made.db.is_sqlite:
            connection.execute(text("ANALYZE switchyard_runs"))
            connection.execute(text("ANALYZE switchyard_steps"))
        prefix = "EXPLAIN QUERY PLAN" if made.db.is_sqlite else "EXPLAIN"
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(f"{prefix} {sql}"))
    assert "SCAN switchyard_runs" not in plan, plan
    assert "Seq Scan" not in plan, plan

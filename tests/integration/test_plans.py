"""Every query that grows with the ledger is answered from its index, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from app import tables
from app.db import Database
from app.runs.models import RunRow as R

NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUERIES: dict[str, tuple[Any, str]] = {
    "what the relay must look at": (
        select(R.id).where(R.check_at <= NOW).order_by(R.check_at).limit(2000),
        "ix_runs_open",
    ),
    "whether a child is open": (
        select(literal(1)).where(R.parent_id == "r00007", R.check_at.is_not(None)).limit(1),
        "ix_runs_children",
    ),
    "children by status": (
        select(R.status, func.count()).where(R.parent_id == "r00007").group_by(R.status),
        "ix_runs_children",
    ),
    "a known key": (
        select(R.id).where(R.job == "job1", R.key == "k00007"),
        "uq_runs_job_key",
    ),
}


@pytest.fixture
def db(database_url: str) -> Any:
    """20,000 runs, a few of them open."""
    made = Database(database_url.replace("postgresql://", "postgresql+psycopg://"))
    tables.metadata.create_all(made.engine)
    rows = [
        {
            "id": f"r{n:05}",
            "job": f"job{n % 7}",
            "key": f"k{n:05}",
            "payload": "{}",
            "backend": "rq",
            "reason": "STATIC",
            "stage": "legacy",
            "stage_version": 0,
            "status": "pending" if n % 500 == 0 else "succeeded",
            "check_at": NOW + timedelta(seconds=n) if n % 500 == 0 else None,
            "parent_id": f"r{n % 90:05}" if n >= 100 else None,
            "created_at": NOW,
            "due_at": NOW,
        }
        for n in range(20_000)
    ]
    with made.begin() as connection:
        connection.execute(insert(R), rows)
    with made.autocommit() as connection:
        connection.exec_driver_sql("ANALYZE")
    yield made
    made.dispose()


@pytest.mark.parametrize("name", QUERIES)
def test_it_uses_its_index(db: Database, name: str) -> None:
    query, index = QUERIES[name]
    dialect = sqlite.dialect() if db.is_sqlite else postgresql.dialect()  # type: ignore[no-untyped-call]
    text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if db.is_sqlite else "EXPLAIN"
    with db.autocommit() as connection:
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {text}"))
    # SQLite names a constraint's index itself.
    assert index in plan or "(job=? AND key=?)" in plan, plan

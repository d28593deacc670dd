"""The ledger is searched newest first, by an index wherever there is one; for all else it looks
back so far at a time and says how far."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from app.switchyard.cutover.drain import Drain
from app.switchyard.db import Database
from app.switchyard.operations import search as searching
from app.switchyard.operations.search import RunFilter, count, every, search
from app.switchyard.runs.models import RunRow, id_at
from flags import Side
from tests.support.filled import fill
from tests.support.plans import plans, sent
from tests.support.rows import run_row
from tests.support.sides import ledger

NOW = datetime(2031, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def add(db: Database, number: int, job: str = "mail", **more: Any) -> str:
    """A run that was created so many minutes after NOW."""
    at = NOW + number * MINUTE
    run_id = f"{id_at(at)}{number:014x}"
    values = run_row(run_id, job, at, **{"stage": "live", "epoch": 1, **more})
    with db.autocommit() as connection:
        connection.execute(insert(RunRow), values)
    return run_id


def ids(db: Database, **wanted: Any) -> list[str]:
    return [run["id"] for run in search(db, RunFilter(**wanted)).runs]


def test_each_filter_and_two_of_them(db: Database) -> None:
    mail = add(db, 1, key="order-1", payload='{"creatorId":"x","deep":{"n":42}}')
    failed = add(db, 2, status="failed", error="step pay: Timeout: No Answer", backend="inngest")
    other = add(db, 3, "report", status="cancelled", stage="ramp", payload='{"creatorId":"X"}')
    waits = add(db, 4, status="waiting", check_at=NOW, error="pay: refused", parent_id=mail)
    pending = add(db, 5, "report", status="pending", check_at=NOW, backend="qstash")
    assert ids(db) == [pending, waits, other, failed, mail]
    for wanted, found in (
        ({"id": mail}, [mail]),
        ({"id": mail[:16]}, [mail]),
        ({"key": "order-1"}, [mail]),
        ({"key": "order-1", "job": "report"}, []),
        ({"job": "report"}, [pending, other]),
        ({"job": "nobody's"}, []),
        ({"backend": "inngest"}, [failed]),
        ({"backend": "serverless"}, [pending, failed]),
        ({"backend": "rq", "job": "mail"}, [waits, mail]),
        ({"status": "failed"}, [failed]),
        ({"status": "cancelled", "job": "report"}, [other]),
        ({"status": "pending"}, [pending]),
        ({"status": "waiting", "job": "report"}, []),
        ({"status": "succeeded"}, [mail]),
        ({"stage": "ramp"}, [other]),
        ({"since": NOW + 4 * MINUTE}, [pending, waits]),
        ({"until": NOW + 4 * MINUTE, "job": "mail"}, [failed, mail]),
        ({"error": "no answer"}, [failed]),
        ({"error": "pay:", "status": "waiting"}, [waits]),
        ({"error": "100 % of_it"}, []),
        ({"payload": "creatorId:x"}, [mail]),
        ({"payload": "payload.n:42"}, [mail]),
        ({"payload": "n:4"}, []),
        ({"parent": mail}, [waits]),
        ({"before": other}, [failed, mail]),
    ):
        assert ids(db, **wanted) == found, wanted
        assert count(db, RunFilter(**wanted)) == (len(found), True), wanted
    with patch.object(searching, "FEW", 0):
        assert ids(db, status="pending") == [pending]


def test_what_no_index_has_is_looked_for_so_far_back_at_a_time(db: Database) -> None:
    first = add(db, 0, payload='{"creatorId":"x"}')
    rest = [add(db, number) for number in range(1, 10)]
    with patch.object(searching, "LOOK", 4):
        page = search(db, RunFilter(payload="creatorId:x"))
        assert (page.runs, page.older) == ([], rest[-4])
        assert page.searched_back_to == NOW + 6 * MINUTE
        assert count(db, RunFilter(payload="creatorId:x"), looks=2) == (0, False)
        assert count(db, RunFilter(payload="creatorId:x")) == (1, True)
        assert [run["id"] for run in every(db, RunFilter(payload="creatorId:x"))] == [first]
    assert count(db, RunFilter(job="mail"), at_most=3) == (3, False)


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"colour": "red"}, {"status": "odd"}, {"payload": "x"}, {"since": "2031-01-01"}):
        with pytest.raises(ValidationError):
            RunFilter(**wrong)


def test_whatever_is_asked_for_is_read_by_an_index(database_url: str) -> None:
    with ledger(database_url) as runtime:
        fill(runtime.db, 20_000)
        search_by_index(runtime.db)
        for job in (None, "mail-notify"):
            with sent(runtime.db.engine) as asked:
                Drain(runtime, job, Side.RQ, True).left()
            seen = plans(runtime.db, asked, "bitmapscan")
            assert "ix_switchyard_runs_open" in seen[-1], seen


def search_by_index(db: Database) -> None:
    newest = "sqlite_autoindex_switchyard_runs_1" if db.is_sqlite else "pk_switchyard_runs"
    by_key = "sqlite_autoindex_switchyard_runs_2" if db.is_sqlite else "uq_switchyard_runs_job_key"
    troubled, of_job = "ix_switchyard_runs_troubled", "ix_switchyard_runs_newest"
    since = {"since": datetime.now(UTC) - timedelta(days=20)}
    for wanted, index in (
        ({}, newest),
        (since, newest),
        ({"stage": "ramp"}, newest),
        ({"backend": "qstash", **since}, newest),
        ({"payload": "creatorId:nobody", "status": "succeeded"}, newest),
        ({"job": "mail"}, of_job),
        ({"job": "job-7", "stage": "ramp"}, of_job),
        ({"status": "failed"}, troubled),
        ({"status": "failed", "job": "mail"}, troubled),
        ({"status": "cancelled", "job": "mail"}, troubled),
        ({"status": "failed", "payload": "creatorId:nobody"}, troubled),
        ({"error": "nothing like it"}, troubled),
        ({"error": "nothing like it", "job": "mail", **since}, troubled),
        ({"status": "running", "job": "mail"}, "ix_switchyard_runs_open"),
        ({"key": "key-500"}, by_key),
        ({"key": "key-500", "job": "mail"}, by_key),
        ({"parent": "nobody"}, "ix_switchyard_runs_children"),
    ):
        few = bool(wanted.keys() & {"parent", "key"}) or wanted.get("status") == "running"
        with sent(db.engine) as asked, patch.multiple(searching, LOOK=20, LOOK_INDEX=50):
            search(db, RunFilter(**wanted))
        assert asked
        # What finds a few by itself may sort them.
        for how in plans(db, asked, "bitmapscan", *([] if few else ["sort", "incremental_sort"])):
            assert index in how, (wanted, how)
            assert "Seq Scan on switchyard_runs" not in how
            assert few or "TEMP B-TREE" not in how


def test_of_many_runs_few_are_held_at_once(db: Database) -> None:
    added = [add(db, number) for number in range(7)]
    asked: list[int] = []

    def noted(db: Database, wanted: RunFilter) -> searching.Page:
        asked.append(wanted.limit)
        return search(db, wanted)

    with patch.object(searching, "AT_ONCE", 3), patch.object(searching, "search", noted):
        assert [run["id"] for run in every(db, RunFilter(limit=6))] == added[:0:-1]
    assert asked == [3, 3]


def test_long_before_there_were_runs(db: Database) -> None:
    run = add(db, 1)
    for early in (datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)):
        assert ids(db, since=early) == [run]
        assert ids(db, until=early) == []

"""Each process says that it lives and what it does, and is gone when it has ended as it should.

Real ones come and go in tests/test_deploy.py.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import update

from app.platform.config import load
from app.switchyard.db import Database
from app.switchyard.operations import processes
from app.switchyard.operations.processes import KEPT, Heartbeat, ProcessRow, listed
from tests.support.sides import build, environment


def test_a_sign_of_life_is_one_row_until_its_end(db: Database) -> None:
    with Heartbeat(db, "relay") as heartbeat:
        heartbeat.beat("one")
        heartbeat.beat("too early to be said")
        (row,) = listed(db, db.clock())
        assert (row["kind"], row["doing"], row["alive"]) == ("relay", "one", True)
        assert row["host"]
        assert row["version"]
        with patch.object(processes, "INTERVAL_SECONDS", 0.0):
            heartbeat._next = 0.1
            heartbeat.beat("two")
        assert [row["doing"] for row in listed(db, db.clock())] == ["two"]
    heartbeat.beat("after its end")
    assert listed(db, db.clock()) == []


def test_one_that_died_is_shown_for_an_hour(db: Database) -> None:
    Heartbeat(db, "clock").beat("ticks")
    later = db.clock() + timedelta(minutes=2)
    assert [row["alive"] for row in listed(db, later)] == [False]
    assert listed(db, db.clock() + KEPT) == []
    long_ago = db.clock() - KEPT - timedelta(minutes=1)
    with db.autocommit() as connection:
        connection.execute(update(ProcessRow).values(seen_at=long_ago))
    Heartbeat(db, "clock").beat("ticks again")
    with db.autocommit() as connection:
        assert connection.execute(ProcessRow.__table__.select()).one().doing == "ticks again"


def test_without_a_database_nothing_else_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(f"sqlite:///{tmp_path / 'no-tables.db'}")
    with Heartbeat(db, "relay") as heartbeat, caplog.at_level(logging.WARNING):
        for _ in range(3):
            heartbeat._next = 0.0
            heartbeat.beat("nothing")
    assert heartbeat.lost == 3
    assert len(caplog.records) == 1
    db.dispose()


def test_a_test_client_is_no_web_process(tmp_path: Path) -> None:
    app = build(load(environment(f"sqlite:///{tmp_path / 'test.db'}", "redis://127.0.0.1:1")))
    with patch.object(Heartbeat, "keep") as keep:
        app.test_client().get("/healthz")
        assert not keep.called
        app.test_client().get("/healthz", environ_overrides={"SERVER_SOFTWARE": "some/1"})
        app.test_client().get("/healthz", environ_overrides={"SERVER_SOFTWARE": "some/1"})
        assert keep.call_count == 1


def test_a_request_that_begins_it_waits_for_no_database(db: Database) -> None:
    with patch.object(db, "clock", side_effect=AssertionError("the database is asked")):
        heartbeat = Heartbeat(db, "web")
    heartbeat.beat("one")
    assert len(listed(db, db.clock())) == 1
    heartbeat.end()

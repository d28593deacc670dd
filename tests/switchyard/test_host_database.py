"""The host passes its engine, or its Flask-SQLAlchemy: the ledger is in the same database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.pool import NullPool

from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import SettingsError
from app.switchyard.extension import Switchyard
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.store import RunStore
from app.switchyard.runtime import Runtime
from tests.conftest import new_postgres

JOBS = "tests.support.jobs"
IN_MEMORY = "sqlite://"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were sent after a commit, in the place of sending them."""
    ids: list[str] = []
    monkeypatch.setattr(RunStore, "send", lambda _store, run_ids: ids.extend(run_ids))
    monkeypatch.setattr(RunStore, "send_messages", lambda *_: None)
    return ids


class Host:
    """An app with Flask-SQLAlchemy and a table of its own."""

    def __init__(self, url: str) -> None:
        self.app = Flask("host")
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.db = SQLAlchemy(self.app)
        Switchyard(self.app, jobs=[JOBS], db=self.db)
        self.runtime: Runtime = self.app.extensions["switchyard"]
        upgraded = self.app.test_cli_runner().invoke(args=["switchyard", "db", "upgrade"])
        assert upgraded.exit_code == 0, upgraded.output
        with self.app.app_context():
            self.db.session.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
            self.db.session.commit()

    def order(self, number: int) -> None:
        self.db.session.execute(text("INSERT INTO orders VALUES (:id)"), {"id": number})

    def orders(self) -> list[int]:
        return list(self.db.session.scalars(text("SELECT id FROM orders ORDER BY id")))

    def runs(self) -> list[str]:
        return [one for (one,) in self.runtime.db.rows(select(RunRow.id).order_by(RunRow.id))]


@pytest.fixture(params=["file", "memory", "postgres"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        url = {"memory": IN_MEMORY, "file": f"sqlite:///{tmp_path / 'host.db'}"}.get(request.param)
        if url is None:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(new_postgres(server))
        host = Host(url.replace("postgresql://", "postgresql+psycopg://"))
        stack.enter_context(host.app.app_context())
        yield host
        host.db.session.remove()
        host.runtime.db.dispose()
        host.db.engine.dispose()


def test_a_run_is_written_in_the_host_s_transaction_and_sent_after_it(
    host: Host, sent: list[str]
) -> None:
    host.order(1)
    dispatch("noop", {"name": "a"}, session=host.db.session)
    host.db.session.rollback()
    assert (host.orders(), host.runs(), sent) == ([], [], [])
    host.db.session.rollback()
    kept = dispatch("noop", {"name": "a"}, session=host.db.session)
    host.order(2)
    assert sent == []
    host.db.session.commit()
    assert (host.orders(), host.runs(), sent) == ([2], [kept.id], [kept.id])
    alone = dispatch("noop", {"name": "b"})  # without a session it commits by itself
    host.db.session.rollback()
    assert host.runs() == sorted([kept.id, alone.id])


def test_many_at_once_join_a_transaction_that_has_changed_nothing_yet(
    host: Host, sent: list[str]
) -> None:
    """SQLite's driver begins late: their savepoint must not be what is committed."""
    items = [Item({"name": "a"}), Item({"name": "b"})]
    dispatch_many("noop", items, session=host.db.session)
    host.db.session.rollback()
    assert host.runs() == []
    written = dispatch_many("noop", items, session=host.db.session)
    host.db.session.commit()
    assert sorted(sent) == host.runs() == sorted(run.id for run in written)


def test_the_host_s_connections_stay_as_they_are(tmp_path: Path, sent: list[str]) -> None:
    host = Host(f"sqlite:///{tmp_path / 'host.db'}")
    with host.app.app_context():
        dispatch("noop", {"name": "a"})
        raw: Any = host.db.session.connection().connection.dbapi_connection
        assert raw.isolation_level == ""
        assert host.db.session.scalar(text("PRAGMA foreign_keys")) == 0
        assert host.runtime.db.engine is not host.db.engine
        host.runtime.db.dispose()
        assert host.orders() == []


def test_in_memory_the_host_ends_its_own_transaction(sent: list[str]) -> None:
    """There is one connection only: what is dispatched while it is open is part of it."""
    host = Host(IN_MEMORY)
    with host.app.app_context():
        for end in (host.db.session.rollback, host.db.session.commit):
            host.order(1)
            run = dispatch("noop", {"name": "a"})
            with host.runtime.db.reading() as tx:
                assert tx.scalars(select(RunRow.id)).all() == [run.id]
            end()
        assert (host.orders(), host.runs()) == ([1], [run.id])
        host.runtime.db.dispose()
        assert host.orders() == [1]


def settled(engine: Any, **more: Any) -> Runtime:
    app = Flask("plain")
    Switchyard(app, jobs=[JOBS], engine=engine, **more)
    runtime: Runtime = app.extensions["switchyard"]
    return runtime


class Traced(sqlite3.Connection):
    """A connection as the host's connect_args ask for it."""


def test_it_connects_as_the_host_does(tmp_path: Path) -> None:
    """It has the host's connect_args and hooks, its kind of pool, and its password."""
    hooked: list[str] = []
    engine = create_engine(
        f"sqlite:///{tmp_path / 'x.db'}", connect_args={"factory": Traced}, poolclass=NullPool
    )
    event.listen(engine, "do_connect", lambda *_: hooked.append("do_connect"))
    made = settled(engine)
    with made.db.autocommit() as connection:
        assert isinstance(connection.connection.dbapi_connection, Traced)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert hooked == ["do_connect"]
    assert isinstance(made.db.engine.pool, NullPool)
    secret = create_engine("postgresql+psycopg://pay:hunter2@127.0.0.1:1/pay")
    assert settled(secret).db.engine.url.password == "hunter2"


def mysql() -> Engine:
    driver = SimpleNamespace(paramstyle="format", VERSION=(1,))
    return create_engine("mysql+pymysql://u@127.0.0.1/x", module=driver)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "one database per thread": (lambda: create_engine(IN_MEMORY), "poolclass=StaticPool"),
    "another database": (mysql, r"mysql\+pymysql is not supported"),
    "a url": (lambda: IN_MEMORY, "needs a SQLAlchemy Engine"),
    "none": (lambda: None, "DATABASE_URL is not set, and the app passes no engine"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_an_engine_that_cannot_be_used(which: str) -> None:
    make, says = REFUSED[which]
    with pytest.raises(SettingsError, match=says):
        settled(make())


def test_one_of_both(tmp_path: Path) -> None:
    app, db = Flask("both"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'x.db'}"
    db.init_app(app)
    with pytest.raises(SettingsError, match="db or engine, not both"):
        Switchyard(app, db=db, engine=mysql())

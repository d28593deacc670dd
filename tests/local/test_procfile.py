"""Each process of the Procfile starts alone from a small environment and ends at SIGTERM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from redis import Redis
from rq.worker_registration import REDIS_WORKER_KEYS

from app.local.loopback import free_port
from app.local.parts import argv, read_procfile
from app.platform.config import ROOT
from app.switchyard.db import Database
from tests.support.tables import create_all
from tests.support.waiting import PATIENCE_SECONDS, until


def given(folder: Path, redis_url: str) -> dict[str, str]:
    """The whole environment of a process. HOME is empty, so that nothing comes from there."""
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HOME": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'test.db'}",
        "REDIS_URL": redis_url,
        "PORT": str(free_port()),
        "BIND": "127.0.0.1",
    }


@pytest.fixture
def environ(tmp_path: Path, redis_url: str) -> dict[str, str]:
    """The same, with a database that has its tables."""
    made = given(tmp_path, redis_url)
    db = Database(made["DATABASE_URL"])
    create_all(db.engine)
    db.dispose()
    return made


def start(name: str, environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            argv(read_procfile()[name]),
            cwd=ROOT,
            env=environ,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def listening(redis_url: str, pid: int) -> bool:
    """Whether the worker waits for jobs: RQ takes signals only then."""
    with Redis.from_url(redis_url) as client:
        keys = client.smembers(REDIS_WORKER_KEYS)
        return [str(pid).encode(), b"idle"] in [client.hmget(key, "pid", "state") for key in keys]


def left_of(session: int) -> list[psutil.Process]:
    """The processes that still run in the session that a process led."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found


def test_there_are_five_and_the_worker_is_plain_rq() -> None:
    commands = read_procfile()
    assert list(commands) == ["web", "worker", "relay", "clock", "release"]
    assert commands["worker"].startswith("rq worker ")
    assert "${PORT:-3005}" in commands["web"]


def test_release_makes_the_tables(tmp_path: Path, redis_url: str) -> None:
    log = tmp_path / "release.log"
    process = start("release", given(tmp_path, redis_url), log)
    assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert (tmp_path / "test.db").exists()


@pytest.mark.parametrize("name", ["worker", "relay", "clock"])
def test_starts_alone_and_ends_at_sigterm(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """test_slow_clients does the same with the web process."""
    log = tmp_path / f"{name}.log"
    process = start(name, environ, log)
    up: dict[str, Callable[[], bool]] = {
        "worker": lambda: listening(environ["REDIS_URL"], process.pid),
        "relay": lambda: "relay started" in log.read_text(),
        "clock": lambda: "clock started" in log.read_text(),
    }
    try:
        until(lambda: up[name]() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
        assert left_of(process.pid) == []
    finally:
        for left in left_of(process.pid):
            left.kill()
        process.wait()


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_wrong_setting_stops_the_start_with_one_line(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / f"{name}.log"
    process = start(name, environ | {"USE_INNGEST": "maybe"}, log)
    try:
        assert process.wait(PATIENCE_SECONDS) != 0
    finally:
        for left in left_of(process.pid):
            left.kill()
    assert "USE_INNGEST: must be true or false" in log.read_text()

"""The commands of `flask --app app`, run in this process or in one of their own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import select

from app import create_app
from app.platform.config import Settings
from app.switchyard import runtime
from app.switchyard.db import Database
from app.switchyard.runs.backend import Delivery, End
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from tests.support.forks import Forked
from tests.support.marks import marks
from tests.support.tables import create_all

CLOSED = "redis://127.0.0.1:1/0"
JOBS = "tests.support.jobs,tests.support.shadowed"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own, with its tables."""
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    db = Database(url)
    create_all(db.engine)
    db.dispose()
    return url


class Cli:
    """One app's commands, run in this process."""

    def __init__(self, app: Flask) -> None:
        self.runtime: Runtime = app.extensions["switchyard"]
        self._runner = app.test_cli_runner()

    def __call__(self, *args: str) -> Result:
        result = self._runner.invoke(args=list(args))
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        result = self(*args, "--json")
        assert result.exit_code == code, result.stderr
        return json.loads(result.stdout)

    def refused(self, *args: str, code: int = 2) -> str:
        """The one line that a refusal is."""
        result = self(*args)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    def status(self, run_id: str) -> tuple[str, int]:
        [row] = self.runtime.db.rows(select(R.status, R.epoch).where(R.id == run_id))
        return (row.status, row.epoch)

    def marks(self) -> dict[str, int]:
        return marks(self.runtime.db)

    def perform(self, run_id: str, holder: str = "another") -> End:
        epoch = self.status(run_id)[1]
        return self.runtime.engine.perform(run_id, epoch, Delivery(holder)).end


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cli]]:
    """Makes apps, and leaves the process as it was."""
    monkeypatch.delenv("USE_INNGEST", raising=False)
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setattr(runtime, "_own", None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    made: list[Cli] = []

    def build(url: str, **settings: Any) -> Cli:
        values: dict[str, Any] = {"redis_url": CLOSED, "switchyard_jobs": JOBS}
        values |= {"check_seconds": 0.2} | settings
        made.append(Cli(create_app(Settings(database_url=url, **values))))
        return made[-1]

    yield build
    root.handlers[:] = handlers
    root.setLevel(level)
    for cli in made:
        cli.runtime.db.dispose()


@pytest.fixture
def cli(build: Callable[..., Cli], url: str) -> Cli:
    return build(url)


def environment(url: str, **more: str) -> dict[str, str]:
    """What a command has in a process of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {"DATABASE_URL": url, "REDIS_URL": CLOSED, "SWITCHYARD_JOBS": JOBS}
    return kept | given | {"CHECK_SECONDS": "0.2", "LEASE_SECONDS": "1"} | more


def start(url: str, *args: str, **more: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    words = ["-m", "flask", "--app", "app", *args]
    return Forked(words, env=environment(url, **more), stdout=-1, stderr=-1, text=True)

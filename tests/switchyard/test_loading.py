"""A process that nobody wired finds its app as `flask` does, and loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import select

from app.switchyard import runtime
from app.switchyard.errors import SettingsError
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import load_app
from tests.support.forks import forked
from tests.support.sides import ROOT, no_worker, relaying, rq_worker

SHOP = """
from flask import Flask

def create_app(name="shop"):
    app = Flask(name)
    app.extensions["switchyard"] = object()
    return app

plain = Flask("plain")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLASK_APP", raising=False)
    (tmp_path / f"shop_{tmp_path.name}.py").write_text(SHOP)
    runtime._loaded.cache_clear()
    yield tmp_path
    runtime._loaded.cache_clear()


def test_flask_app_names_a_factory_which_is_called_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_APP", f"shop_{folder.name}:create_app('till')")
    app = load_app()
    assert app.import_name == "till"
    assert load_app() is app
    current = Flask("current")
    with current.app_context():
        assert load_app() is current


def test_a_dotenv_file_may_name_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_APP", "")  # so that it is taken back at the end
    monkeypatch.delenv("FLASK_APP")
    (folder / ".flaskenv").write_text(f"FLASK_APP=shop_{folder.name}:create_app\n")
    assert load_app().import_name == "shop"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("nowhere.py", "Could not import"),
        ("shop_{}:create", "Failed to find attribute"),
        ("shop_{}:plain", "has no Switchyard"),
    ],
)
def test_an_app_that_cannot_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, named: str, why: str
) -> None:
    monkeypatch.setenv("FLASK_APP", named.format(folder.name))
    with pytest.raises(SettingsError, match=f"FLASK_APP: .*{why}"):
        load_app()


ENQUEUE = """
import sys
from queues import Queue
from queues.backend import connect
queue = Queue("old", connection=connect(sys.argv[1]))
queue.enqueue("tests.support.old_tasks.mark", name=sys.argv[2], job_id=sys.argv[2])
"""


def test_an_old_call_site_in_such_a_process_outlives_it(redis_url: str, tmp_path: Path) -> None:
    """A process that never called create_app() is killed before the sending, and tries again;
    test_crashes kills it at the other points."""
    n = uuid4().hex
    with no_worker(redis_url, tmp_path) as on:
        for crash_at in ("dispatch.committed", ""):
            crashing = {**on.environ, "SWITCHYARD_CRASH_AT": crash_at}
            ended = forked(["-c", ENQUEUE, redis_url, n], crashing)
            assert ended.returncode == (-9 if crash_at else 0), ended.stderr
        with relaying(on.runtime), rq_worker(on.environ, tmp_path / "worker.log"):
            [row] = on.runtime.db.rows(select(R.__table__).where(R.job == "old-mark"))
            on.finish(cast(Any, row))
            on.settle(0.5)
        assert on.marks(n) == {n: 1}


def test_importing_it_is_cheap() -> None:
    """No web app is made, nothing is connected, and jobs load neither rq nor inngest."""
    code = "import sys"
    for given, forbidden in (
        ("import queues", ("rq", "flask", "sqlalchemy")),
        ("import app.platform.payouts.jobs", ("rq", "inngest")),
        ("import app.switchyard.job, app.switchyard.maintenance", ("rq", "inngest", "flask")),
        ("from queues import Job, Queue, job", ("flask", "inngest", "app.switchyard.extension")),
    ):
        code += f"; {given}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["[]"] * 4

"""`flask switchyard worker`: `rq worker` for the app that `flask` names."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from app.switchyard.runs.models import RunRow as R
from queues.backend import connect, registered_workers
from tests.support.forks import Forked
from tests.support.sides import Side, no_worker
from tests.support.waiting import PATIENCE_SECONDS, until

SHOP = """
from flask import Flask, current_app
from app.switchyard import Empty, Switchyard, job

@job("one", event="shop.one", payload=Empty, queue="shop-one")
def one(ctx, payload):
    return current_app.name

@job("two", event="shop.two", payload=Empty, queue="shop-two")
def two(ctx, payload):
    return current_app.name

def make_shop(name="shop"):
    app = Flask(name)
    Switchyard(app, jobs=[one, two])
    return app
"""
FLASK = "import os, sys; os.chdir(sys.argv.pop(1)); from flask.cli import main; main()"


class Shop:
    """An app in a folder, whose jobs have one run each, and its workers."""

    def __init__(self, on: Side, folder: Path) -> None:
        self.on, self._folder = on, folder
        for job in ("one", "two"):
            on.dispatch(job, {})

    @contextmanager
    def worker(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        app = ["-c", FLASK, str(self._folder), "--app", "worked_shop:make_shop('till')"]
        environ = {**self.on.environ, "SWITCHYARD_JOBS": ""}
        command = [*app, "switchyard", "worker", *args]
        process = Forked(command, env=environ, text=True, stdout=-1, stderr=-2)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def worked(self, *args: str, code: int = 0) -> str:
        """What a worker says that ends by itself."""
        with self.worker(*args) as process:
            out, _ = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == code, out
        return out

    def results(self) -> dict[str, str | None]:
        return {row.job: row.result for row in self.on.runtime.db.rows(select(R.job, R.result))}


@pytest.fixture
def shop(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    (tmp_path / "worked_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    with no_worker(redis_url, tmp_path, SWITCHYARD_JOBS="worked_shop") as on:
        yield Shop(on, tmp_path)


def test_it_serves_the_queues_named_or_all_of_the_declared_jobs(shop: Shop) -> None:
    shop.worked("--burst", "shop-two")
    assert shop.results() == {"one": None, "two": '"till"'}
    shop.on.dispatch("two", {})
    shop.worked("--max-jobs", "1", "shop-two", "shop-one")
    assert shop.results()["one"] is None
    shop.worked("--burst")
    assert shop.results() == {"one": '"till"', "two": '"till"'}
    assert "no such option" in shop.worked("--brust", code=2).lower()


def test_it_ends_cleanly_on_sigterm(shop: Shop, redis_url: str) -> None:
    redis = connect(redis_url)
    with shop.worker("--name", "w1") as process:
        until(lambda: '"till"' in shop.results().values())
        (worker,) = registered_workers(redis)
        assert (worker.name, worker.ours, worker.pid) == ("w1", True, str(process.pid))
        assert {"shop-one", "shop-two"} <= set(worker.queues)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, "Traceback" in out) == (0, False), out
    assert registered_workers(redis) == []

"""`flask switchyard worker`: `rq worker` for the app that `flask` names."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select

from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow as R
from queues.backend import connect, registered_workers
from tests.support.forks import Forked
from tests.support.sides import PATIENCE_SECONDS, environment
from tests.support.waiting import until

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
    """An app in a folder, and `flask` for it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        (folder / "shop.py").write_text(SHOP)
        self.redis: Redis = connect(redis_url)
        self.redis.flushall()
        url = f"sqlite:///{folder / 'shop.db'}"
        self._environ, self._folder = environment(url, redis_url, SWITCHYARD_JOBS=""), folder
        self.db = Database(url)

    @contextmanager
    def flask(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        given = ["-c", FLASK, str(self._folder), "--app", "shop:make_shop('till')", "switchyard"]
        process = Forked([*given, *args], env=self._environ, text=True, stdout=-1, stderr=-2)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def done(self, *args: str, code: int = 0) -> str:
        with self.flask(*args) as process:
            out, _ = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == code, out
        return out

    def results(self) -> dict[str, str | None]:
        return {row.job: row.result for row in self.db.rows(select(R.job, R.result))}


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Shop]:
    made = Shop(tmp_path, redis_url)
    made.done("db", "upgrade")
    for job in ("one", "two"):
        made.done("jobs", "dispatch", job)
    yield made
    made.db.dispose()
    made.redis.close()


def test_it_serves_the_queues_named_or_all_of_the_declared_jobs(shop: Shop) -> None:
    shop.done("worker", "--burst", "shop-two")
    assert shop.results() == {"one": None, "two": '"till"'}
    shop.done("jobs", "dispatch", "two")
    shop.done("worker", "--max-jobs", "1", "shop-two", "shop-one")
    assert shop.results()["one"] is None
    shop.done("worker", "--burst")
    assert shop.results() == {"one": '"till"', "two": '"till"'}
    assert "no such option" in shop.done("worker", "--brust", code=2).lower()


def test_it_ends_cleanly_on_sigterm(shop: Shop) -> None:
    with shop.flask("worker", "--name", "w1") as process:
        until(lambda: '"till"' in shop.results().values())
        (worker,) = registered_workers(shop.redis)
        assert (worker.name, worker.ours, worker.pid) == ("w1", True, str(process.pid))
        assert {"shop-one", "shop-two"} <= set(worker.queues)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, "Traceback" in out) == (0, False), out
    assert registered_workers(shop.redis) == []

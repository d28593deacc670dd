"""current_run(): what a body says of itself, and where it may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert, select, text, update
from sqlalchemy.orm import Session

from app.switchyard import Context, Empty, current_run, dispatch, job
from app.switchyard.errors import LeaseLost
from app.switchyard.job import JobSpec
from app.switchyard.operations.story import story
from app.switchyard.runs.backend import End
from app.switchyard.runs.models import RunRow as R
from tests.support.console import Site
from tests.support.jobs import reporter
from tests.support.marks import Touch
from tests.support.sides import Side, side


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Side]:
    with side("memory", f"sqlite:///{tmp_path / 'test.db'}", "redis://127.0.0.1:1", tmp_path) as on:
        yield on


def declared(body: Any) -> JobSpec:
    declare = job("here", event="test.here", payload=Empty, attempts=1)
    spec: JobSpec = declare(body).switchyard_job  # type: ignore[attr-defined]
    return spec


def done(on: Side, body: Any) -> Any:
    on.runtime.catalogue.add(declared(body))
    run = on.dispatch("here", {})
    on.finish(run)
    return story(on.runtime.db, run.id)


def test_there_is_none_outside_of_a_run(on: Side) -> None:
    assert current_run() is None
    assert done(on, lambda ctx, payload: None)["progress"] is None
    assert current_run() is None


def test_a_lock_of_its_own_costs_a_note_and_nothing_else(
    on: Side, caplog: pytest.LogCaptureFixture
) -> None:
    """On SQLite the body's own transaction has the only write lock."""

    def busy(ctx: Context, payload: Empty) -> str:
        def step(tx: Session) -> str:
            run = current_run()
            assert run is not None
            run.progress(1)
            tx.execute(insert(Touch).values(what="busy"))
            run.progress(2)
            return "done"

        return ctx.step.run("step", step)

    shown = done(on, busy)
    assert (shown["status"], shown["result"], shown["progress"]["n"]) == ("succeeded", "done", 1)
    assert "progress not noted" in caplog.text
    assert on.runtime.db.value(text("PRAGMA busy_timeout")) == 20_000


def test_a_stale_one_is_stopped(on: Side) -> None:
    def stale(ctx: Context, payload: Empty) -> None:
        with on.runtime.db.begin() as connection:
            connection.execute(update(R).values(epoch=R.epoch + 1))
        run = current_run()
        assert run is not None
        with pytest.raises(LeaseLost):
            run.progress(1)
        run.progress(2)

    on.runtime.catalogue.add(declared(stale))
    run = on.dispatch("here", {})
    assert on.memory is not None
    (outcome,) = on.memory.work(on.runtime.engine)
    assert outcome.end is End.NOT_MINE
    assert on.runtime.db.value(select(R.progress).where(R.id == run.id)) is None


def test_what_is_no_number_is_refused(on: Side) -> None:
    def wrong(ctx: Context, payload: Empty) -> None:
        run = current_run()
        assert run is not None
        run.progress(float("nan"))

    assert "ValueError" in done(on, wrong)["error"]


def test_the_console_shows_it(site: Site, client: FlaskClient) -> None:
    ids = site.fill()
    run = dispatch(reporter.switchyard_job.name, {"name": "<b>"})  # type: ignore[attr-defined]
    site.work()
    page = client.get(f"/console/runs/{run.id}").text
    assert re.search(r'<progress value="(\d)" max="2"[^>]*></progress> \1 of 2: try \1 ', page)
    assert "<progress" not in client.get(f"/console/runs/{ids['done']}").text

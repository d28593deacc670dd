"""A run's story: all that became of it in one answer; and who did what to it, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import update

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.operations import jobs
from app.switchyard.operations.overview import overview
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow
from tests.conftest import new_database
from tests.support.sides import Side, side

BY = By("ada", "it was their outage")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with (
        new_database(request.param, folder, request) as url,
        side("memory", url, "redis://127.0.0.1:1", folder) as working,
    ):
        yield working


def shown_of(on: Side, run_id: str) -> dict[str, Any]:
    return story(on.runtime.db, run_id)


def history(on: Side, run_id: str) -> list[tuple[str, str, int]]:
    done = audit.history(on.runtime.db, run_id=run_id)
    return [(act["act"], act["who"], act["count"]) for act in done]


def test_an_act_and_its_record_are_one(on: Side) -> None:
    run = on.dispatch("refuser", {"name": "acts"})
    on.finish(run)
    gone = patch.object(audit, "record", side_effect=RuntimeError("the database is gone"))
    with gone, pytest.raises(RuntimeError):
        operate.retry(on.runtime.store, run.id, BY)
    assert (shown_of(on, run.id)["status"], history(on, run.id)) == ("failed", [])
    operate.retry(on.runtime.store, run.id, BY)
    assert history(on, run.id) == [("retry", "ada", 1)]
    on.finish(run)


def test_a_cancel_counts_what_was_below(on: Side) -> None:
    run = on.dispatch("child", {"name": "later"}, delay=60)
    gone = patch.object(audit, "record", side_effect=RuntimeError("the database is gone"))
    with gone, pytest.raises(RuntimeError):
        operate.cancel(on.runtime.store, run.id, by=BY)
    assert shown_of(on, run.id)["status"] == "pending"
    operate.cancel(on.runtime.store, run.id, by=BY)
    assert history(on, run.id) == [("cancel", "ada", 1)]


def test_a_job_that_the_code_has_forgotten_is_shown_all_the_same(on: Side) -> None:
    run = on.dispatch("refuser", {"name": "forgotten"})
    on.finish(run)
    with on.runtime.db.autocommit() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run.id).values(job="forgotten"))
    assert [job["known"] for job in overview(on.runtime, {}).jobs][-1] is False
    assert jobs.every(on.runtime)["jobs"][-1]["name"] == "forgotten"

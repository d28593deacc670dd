"""A step done at most once, in a run that changes sides or loses its process on the way."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from app.switchyard.runs.handoff import hand_over
from tests.support.sides import Side, both, environment, fresh, rq_worker, side
from tests.support.waiting import until


@pytest.fixture
def name() -> str:
    return f"o{uuid4().hex[:8]}"


@pytest.mark.parametrize("begins_on", ["rq", "inngest"])
def test_it_moves_with_its_run_and_is_not_repeated(
    begins_on: str, name: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with both(database_url, redis_url, tmp_path) as on:
        on.backend = begins_on
        run = on.dispatch("sent-once", {"name": name, "moves": {1: "moved"}})
        (row,) = on.finish(run)
        assert (row.status, row.reason) == ("succeeded", "HANDED_OVER")
        assert (on.touches(f"{name}/tried"), on.touches(f"{name}/sent")) == (1, 1)
        assert on.marks(name) == {f"{name}/recorded": 1, f"{name}/after/1": 1}


def test_the_other_side_sees_that_a_dead_worker_had_begun(
    name: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    environ = environment(database_url, redis_url)
    made = fresh(database_url, environ, None)
    rq = Side("rq", made, environ)
    with rq_worker(environ, tmp_path / "dying.log"):
        run = rq.dispatch("sent-once", {"name": name, "moves": {1: "hangs"}})
        until(lambda: rq.touches(f"{name}/sent"), "the worker did not come to the step")
    assert rq.steps(run.id)["send"].status == "begun"
    assert hand_over(made.store, [run.id], "inngest").asked == 1
    made.db.dispose()
    with side("inngest", database_url, redis_url, tmp_path) as on:
        (row,) = on.finish(run)
        assert (row.status, row.backend) == ("succeeded", "inngest")
        assert "outcome unknown" in row.result
        assert (on.touches(f"{name}/tried"), on.touches(f"{name}/sent")) == (1, 1)

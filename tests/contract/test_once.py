"""What every backend promises for a step that is done at most once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from app.switchyard.errors import RunNotMovable
from app.switchyard.runs import operate
from app.switchyard.runs.store import Run
from tests.support.sides import Side


def dispatched(on: Side, job: str = "sent-once", **payload: Any) -> tuple[str, Run]:
    n = f"o{uuid4().hex[:8]}"
    return n, on.dispatch(job, {"name": n, **payload})


def counts(on: Side, n: str) -> tuple[int, int]:
    """How often it was tried, and how often it took effect."""
    return on.touches(f"{n}/tried"), on.touches(f"{n}/sent")


def test_it_is_done_once(on: Side) -> None:
    n, run = dispatched(on)
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (1, 1))
    assert on.marks(n) == {f"{n}/recorded": 1, f"{n}/after/1": 1}
    assert on.steps(run.id)["send"].status == "done"


def test_what_was_not_done_for_certain_is_tried_again(on: Side) -> None:
    n, run = dispatched(on, moves={1: "not done", 2: "not done"})
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (3, 1))
    assert on.steps(run.id)["send"].attempts == 3


def test_what_is_never_done_fails_after_its_attempts(on: Side) -> None:
    n, run = dispatched(on, moves={1: "not done", 2: "not done", 3: "not done"})
    (row,) = on.finish(run)
    assert (row.status, row.error) == ("failed", "step send: NotDone: nobody was there")
    assert counts(on, n) == (3, 0)
    operate.retry(on.runtime.store, run.id)
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (4, 1))


def test_what_was_refused_is_not_tried_again(on: Side) -> None:
    n, run = dispatched(on, moves={1: "refused"})
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("failed", (1, 0))


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("lost", "ConnectionResetError: no answer"),
        ("not json", "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_an_unknown_outcome_is_on_record_and_not_repeated(on: Side, end: str, why: str) -> None:
    n, run = dispatched(on, moves={1: end})
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (1, 1))
    assert json.loads(row.result) == f"step send: outcome unknown: {why}"
    assert on.steps(run.id)["send"].status == "unknown"
    assert on.marks(n) == {}
    with pytest.raises(RunNotMovable):
        operate.retry(on.runtime.store, run.id)


def test_a_run_that_it_ended_is_retried_without_repeating_it(on: Side) -> None:
    n, run = dispatched(on, moves={1: "lost"}, failAt=1)
    (row,) = on.finish(run)
    said = "step send: outcome unknown: ConnectionResetError: no answer"
    assert (row.status, row.error) == ("failed", said)
    operate.retry(on.runtime.store, run.id)
    (row,) = on.finish(run)
    assert (row.status, row.error, counts(on, n)) == ("failed", said, (1, 1))


def test_a_job_may_have_it_repeated(on: Side) -> None:
    n, run = dispatched(on, "sent-at-least-once", moves={1: "lost"})
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (2, 2))
    n, run = dispatched(on, "sent-at-least-once", moves=dict.fromkeys((1, 2, 3), "lost"))
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (3, 3))
    assert on.steps(run.id)["send"].status == "unknown"


def test_a_zombie_s_outcome_is_unknown_to_who_took_over(on: Side) -> None:
    n, run = dispatched(on, moves={1: "taken over"})
    (row,) = on.finish(run)
    assert (row.status, counts(on, n)) == ("succeeded", (1, 1))
    assert "the process that began it never returned" in row.result
    assert on.marks(n) == {}


def test_a_commit_that_was_not_answered_is_looked_up(on: Side) -> None:
    n, run = dispatched(on, moves={1: "before_commit"})
    (row,) = on.finish(run)
    assert (on.steps(run.id)["send"].status, counts(on, n)) == ("unknown", (1, 1))
    assert on.marks(n) == {}
    n, run = dispatched(on, moves={1: "after_commit"})
    (row,) = on.finish(run)
    assert (row.status, on.steps(run.id)["send"].status) == ("succeeded", "done")
    assert on.marks(n) == {f"{n}/recorded": 1, f"{n}/after/1": 1}
    assert counts(on, n) == (1, 1)

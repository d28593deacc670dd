"""A run that was asked to move, and then to stay after all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.switchyard import crash, runtime
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.backend import Delivery, End, Message
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow as R
from tests.support import jobs
from tests.support.sides import Fixed, decide_by, environment, fresh


class Deaf:
    """A backend that takes what it is told, and no more."""

    waits_until_due = False

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        return {}

    def queued(self, messages: Sequence[Message]) -> set[str]:
        return set()

    def cancel(self, messages: Sequence[Message]) -> None: ...

    def ping(self) -> None: ...


@pytest.fixture
def made(tmp_path: Path) -> Iterator[runtime.Runtime]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    made = fresh(url, environment(url, "redis://127.0.0.1:1"), [Deaf("rq"), Deaf("inngest")])
    decide_by(Fixed("rq"))
    yield made
    made.db.dispose()


def test_it_goes_on_where_it_is(made: runtime.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as one that was taken over: its lease would have to run out before anyone went on."""
    run = dispatch("five-steps", {"name": "n"})
    asked = {"run.claimed": ["inngest"], "step.recorded": ["rq"]}

    def hook(point: str) -> None:
        if asked.get(point):
            hand_over(made.store, [run.id], asked[point].pop())

    monkeypatch.setattr(crash, "hook", hook)
    assert made.engine.perform(run.id, 1, Delivery("worker")).end == End.DONE
    assert not any(asked.values())
    with made.db.autocommit() as connection:
        row = connection.execute(select(R.status, R.backend, R.epoch, R.losses)).one()
    assert tuple(row) == ("succeeded", "rq", 2, 0)
    assert set(jobs.marks(made.db).values()) == {1}


def test_one_that_was_taken_over_does_not(
    made: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dispatch("five-steps", {"name": "n"})
    todo = ["run.claimed", "step.recorded"]

    def hook(point: str) -> None:
        if point not in todo:
            return
        todo.remove(point)
        if point == "run.claimed":
            hand_over(made.store, [run.id], "inngest")
            return
        with made.db.autocommit() as connection:
            connection.execute(update(R).values(epoch=R.epoch + 1, move_to=None))

    monkeypatch.setattr(crash, "hook", hook)
    assert made.engine.perform(run.id, 1, Delivery("worker")).end == End.NOT_MINE
    assert not todo
    assert sum(jobs.marks(made.db).values()) == 1

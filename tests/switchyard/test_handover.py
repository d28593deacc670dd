"""A run changes backend between two steps: what is done stays done, the rest goes on over there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runtime import current
from tests.conftest import new_database
from tests.support.sides import Side, both, ledger


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def on(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[Side]:
    folder: Path = tmp_path_factory.mktemp("both")
    with ExitStack() as stack:
        url = stack.enter_context(new_database(request.param, folder, request))
        yield stack.enter_context(both(url, redis_url, folder))


@pytest.mark.parametrize("first", ["rq", "qstash"])
def test_round_all_three(on: Side, first: str) -> None:
    n = uuid4().hex
    on.backend = first
    last = {"rq": "qstash", "qstash": "rq"}[first]
    moves = {1: last, 2: first, 3: "inngest", 4: last}
    (row,) = on.finish(on.dispatch("mover", {"name": n, "moves": moves}))
    sides = [first, last, first, "inngest", last]
    assert (row.status, row.backend) == ("succeeded", last)
    assert on.marks(n) == {f"{n}/{i}/{side}": 1 for i, side in enumerate(sides, 1)}
    moved = on.handoffs(row.id)
    assert [(one.from_backend, one.to_backend) for one in moved] == list(pairwise(sides))
    assert sorted({one.epoch for one in moved}) == [one.epoch for one in moved]


def test_handing_over_what_is_done_or_there_already_changes_nothing(on: Side) -> None:
    n = uuid4().hex
    on.backend = "rq"
    run = on.dispatch("child", {"name": n})
    (row,) = on.finish(run)
    assert hand_over(on.runtime.store, [run.id], "inngest").moved == 0
    assert on.row(run.id) == row
    later = on.dispatch("child", {"name": n + "x"}, delay=60)
    assert hand_over(on.runtime.store, [later.id], "rq").moved == 0
    assert on.handoffs(later.id) == []
    with pytest.raises(BackendUnavailable):
        hand_over(on.runtime.store, [later.id], "not-here")
    assert on.row(later.id).backend == "rq"
    assert hand_over(on.runtime.store, [later.id], "inngest").moved == 1
    (moved,) = on.handoffs(later.id)
    assert (moved.from_backend, moved.to_backend, moved.epoch) == ("rq", "inngest", 2)


class Slow(MemoryBackend):
    """A service whose answer comes when its run has long been moved."""

    name = "inngest"

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        hand_over(current().store, [message.run_id for message in messages], "memory")
        return {message.run_id: "ref" for message in messages}


def test_a_reference_that_comes_late_is_not_taken_for_the_new_backend_s(database_url: str) -> None:
    with ledger(database_url, MemoryBackend(), Slow()) as runtime:
        on = Side("inngest", runtime, {})
        row = on.row(on.dispatch("noop", {"name": "n"}).id)
    assert (row.backend, row.sent_ref) == ("memory", None)

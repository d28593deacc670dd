"""What a hand-over changes, and what not. That a run goes on over there: tests/proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from sqlalchemy import select

from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import HandoffRow
from app.switchyard.runtime import current
from tests.support.sides import Side, ledger
from tests.support.world import World


def test_handing_over_what_is_done_or_there_already_changes_nothing(world: World) -> None:
    store = world.runtime.store
    run = dispatch("child", {"name": "n"})
    world.work()
    row = world.row(run.id)
    assert hand_over(store, [run.id], "inngest").moved == 0
    assert (world.row(run.id), row.status) == (row, "succeeded")
    later = dispatch("child", {"name": "x"}, delay=60)
    assert hand_over(store, [later.id], "rq").moved == 0
    with pytest.raises(BackendUnavailable):
        hand_over(store, [later.id], "not-here")
    assert world.runtime.db.rows(select(HandoffRow.id)) == []
    assert hand_over(store, [later.id], "inngest").moved == 1
    (moved,) = world.runtime.db.rows(select(HandoffRow.__table__))
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

"""Hand-off: a run changes backend between two steps; steps already done are never redone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.runs.models import RunRow as R
from app.runs.statements import ASK_TO_MOVE, HAND_OVER
from app.runs.store import RunStore

CHUNK = 200
"""Runs moved per transaction: the write lock is not held for long."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How many runs moved at once, and how many were asked to at their next step boundary."""

    moved: int
    asked: int


def hand_over(store: RunStore, run_ids: Sequence[str], to: str) -> HandedOver:
    """Move these open runs to backend `to`; one that is done with or already there stays as it is.

    Raises BackendUnavailable where this process does not have `to`.
    """
    store.backends[to]
    moved = asked = 0
    for start in range(0, len(run_ids), CHUNK):
        chunk = list(run_ids[start : start + CHUNK])
        now = store.clock()
        bound = {"to": to, "now": now, "new_check_at": now + store.check}
        with store.db.begin() as connection:
            # Asked first: one that stops running in between is then moved by the second statement.
            asked_now = connection.execute(ASK_TO_MOVE.where(R.id.in_(chunk)), {"to": to}).rowcount
            told = connection.execute(HAND_OVER.where(R.id.in_(chunk)), bound).scalars().all()
        store.tell(list(told))
        moved += len(told)
        asked += asked_now
    return HandedOver(moved, asked)

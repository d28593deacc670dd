"""Hand-off: a run changes backend between two steps; steps already done are never redone."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from app.switchyard.crash import point
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs import ledger
from app.switchyard.runs.backend import Message
from app.switchyard.runs.ledger import AnyRow
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.statements import ASK_TO_MOVE, HAND_OVER, elsewhere
from app.switchyard.runs.store import RunStore

log = logging.getLogger(__name__)

CHUNK = 200
"""Runs moved per transaction: the write lock is not held for long."""
_COLUMNS = (
    *(R.id, R.job, R.backend, R.payload, R.epoch, R.sends, R.due_at, R.sent_ref),
    *(R.status, R.move_to),
)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How many runs moved at once, and how many were asked to at their next step boundary."""

    moved: int
    asked: int


def hand_over(
    store: RunStore, run_ids: Sequence[str], to: str, *, running: bool = True
) -> HandedOver:
    """Move these open runs to backend `to`; one that is done with or already there stays as it is.

    Those that are running move at their next step boundary, or stay where `running` is false. A run
    that Inngest has no function for goes to its job's own side instead. The old backend takes back
    what it can. Raises BackendUnavailable where this process does not have `to`.
    """
    store.backends[to]
    moved = asked = 0
    for start in range(0, len(run_ids), CHUNK):
        chunk = list(run_ids[start : start + CHUNK])
        now = store.clock()
        # Younger ones first: a child that ends locks itself, then its parent.
        rows = select(*_COLUMNS).where(R.id.in_(chunk), R.check_at.is_not(None))
        rows = rows.where(elsewhere(to)).order_by(R.id.desc())
        loose: list[AnyRow] = []
        with store.db.begin() as connection:
            found = list(connection.execute(rows.with_for_update(key_share=True)))
            for target, there in _by_target(store, found, to).items():
                held = [r.id for r in there if r.status == Status.RUNNING and r.move_to != target]
                free = [row for row in there if row.status != Status.RUNNING]
                if held and running:
                    connection.execute(ASK_TO_MOVE.where(R.id.in_(held)), {"to": target})
                    asked += len(held)
                if free:
                    bound = {"to": target, "now": now, "new_check_at": now + store.check}
                    connection.execute(HAND_OVER.where(R.id.in_([row.id for row in free])), bound)
                loose += free
        point("handover.committed")
        if loose:
            take_back(store, loose)
            store.send([row.id for row in loose])
        moved += len(loose)
    return HandedOver(moved, asked)


def _by_target(store: RunStore, rows: Iterable[AnyRow], to: str) -> dict[str, list[AnyRow]]:
    """The rows that are not where they are to be, by where that is."""
    targets: dict[str, list[AnyRow]] = defaultdict(list)
    for row in rows:
        spec = store.spec_of(row.job)
        target = to if spec is None else spec.carried_by(to)
        if row.backend != target or row.move_to not in (None, target):
            targets[target].append(row)
    return targets


def take_back(store: RunStore, rows: Iterable[AnyRow]) -> None:
    """Have the backends of these rows forget what they were sent of them, as far as they can."""
    sent: dict[str, list[Message]] = defaultdict(list)
    for row in rows:
        if (spec := store.spec_of(row.job)) is not None:
            sent[row.backend].append(ledger.as_message(row, spec))
    for backend, messages in sent.items():
        try:
            store.backends[backend].cancel(messages)
        except BackendUnavailable as failure:
            log.warning(
                "not taken back; what comes of it finds a newer epoch",
                extra={"backend": backend, "runs": len(messages), "reason": str(failure)},
            )

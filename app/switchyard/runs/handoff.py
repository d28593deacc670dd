"""Hand-off: a run moves to another backend between two steps. Finished steps are never redone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from sqlalchemy import Boolean, ColumnElement, and_, bindparam, case, null, or_, select, update

from app.switchyard.crash import point
from app.switchyard.logs import logger_of
from app.switchyard.runs.models import ACCEPTED, VOID, AnyRow, Status, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.record import handed_over
from app.switchyard.runs.store import SENT, RunStore, chunks
from flags import Reason

log = logger_of(__name__)

CHUNK = 200
"""How many runs are moved in one transaction, so that the write lock is never held for long."""

_HAND_OVER = (
    update(runs)
    .where(R.status.in_([Status.PENDING, Status.WAITING]))
    .values(
        **VOID,
        **ACCEPTED,
        backend=bindparam("to"),
        reason=Reason.HANDED_OVER.value,
        move_to=null(),
        check_at=case(
            (R.due_at > bindparam("now"), R.due_at),
            else_=bindparam("new_check_at", type_=R.due_at.type),
        ),
        send_at=case(
            (and_(R.due_at > bindparam("now"), bindparam("by_relay", type_=Boolean)), R.due_at),
            else_=null(),
        ),
        idle_since=bindparam("now"),
    )
    .returning(*SENT)
)
# A run that is already at the target had been asked to leave, and now stays.
_ASK_TO_MOVE = (
    update(runs)
    .where(R.status == Status.RUNNING)
    .values(move_to=case((R.backend == bindparam("to"), null()), else_=bindparam("to")))
)


def elsewhere(to: str) -> ColumnElement[bool]:
    """The run is not at backend `to`, or is about to leave it."""
    return or_(R.backend != to, R.move_to != to)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How many runs moved at once, and how many will move at their next step boundary."""

    moved: int
    asked: int


def hand_over(
    store: RunStore,
    run_ids: Sequence[str],
    to: str,
    *,
    running: bool = True,
    take_back: Callable[[Sequence[AnyRow]], object] | None = None,
) -> HandedOver:
    """Move these runs to backend `to`, apart from those that have ended or are there already.

    Running ones move at their next step boundary, or stay where `running` is false. A run for which
    Inngest has no function goes to its job's own side instead. The old backend takes back the
    messages it can; a caller that does this itself passes `take_back`, which is given the rows.
    Raises BackendUnavailable where this process does not have `to`.
    """
    _ = store.backends[to]
    moved = asked = 0
    for chunk in chunks(run_ids, CHUNK):
        now = store.clock()
        # Newest first: a child that ends locks itself, then its parent.
        rows = select(*SENT, R.status, R.move_to).where(R.id.in_(chunk), R.check_at.is_not(None))
        rows = rows.where(elsewhere(to)).order_by(R.id.desc()).with_for_update(key_share=True)
        free: list[AnyRow] = []
        there_now: list[AnyRow] = []
        with store.db.begin() as connection:
            for target, there in _by_target(store, connection.execute(rows), to).items():
                ask = [r.id for r in there if r.status == Status.RUNNING and r.move_to != target]
                move = [row for row in there if row.status != Status.RUNNING]
                if ask and running:
                    connection.execute(_ASK_TO_MOVE.where(R.id.in_(ask)), {"to": target})
                    asked += len(ask)
                if move:
                    bound = {"to": target, "now": now, "new_check_at": now + store.check}
                    bound["by_relay"] = not store.backends.waits_until_due(target)
                    chosen = R.id.in_([row.id for row in move])
                    there_now += connection.execute(_HAND_OVER.where(chosen), bound).all()
                    before = ((r.id, r.job, r.backend, r.epoch) for r in move)
                    handed_over(connection, before, target, now)
                free += move
        point("handover.committed")
        if free:
            store.send_messages(store.messages(sorted(there_now, key=attrgetter("id"))))
            (take_back or store.take_back)(free)
        moved += len(free)
    return HandedOver(moved, asked)


def _by_target(store: RunStore, rows: Iterable[AnyRow], to: str) -> dict[str, list[AnyRow]]:
    """The rows that must move, by the backend they must move to."""
    targets: dict[str, list[AnyRow]] = defaultdict(list)
    for row in rows:
        spec = store.spec_of(row.job)
        target = to if spec is None else spec.backend_for(to)
        if row.backend != target or row.move_to not in (None, target):
            targets[target].append(row)
    return targets

"""What an operator may do to a run: give a failed one a fresh start, or call an open one off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection, bindparam, null, select, update

from app.switchyard.errors import RunNotMovable, UnknownRun
from app.switchyard.runs import ledger
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status, StepStatus
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.statements import runs, steps
from app.switchyard.runs.store import RunStore

T = TypeVar("T")

CASCADED = "cancelled with its parent"
"""The error of a run that was open when its parent was cancelled; such a run comes back with it."""
CHUNK = 500

_REOPEN = (
    update(runs)
    .values(
        status=Status.PENDING,
        epoch=R.epoch + 1,
        holder=null(),
        move_to=null(),
        sent_ref=null(),
        ended_at=null(),
        result=null(),
        error=null(),
        sends=0,
        attempt=1,
        losses=0,
        due_at=bindparam("now"),
        check_at=bindparam("new_check_at"),
    )
    .returning(R.id)
)

# The tries of an undone step start anew; a step that failed for good would else fail the body.
_FRESH_TRIES = (
    update(steps)
    .where(S.status.in_([StepStatus.FAILED, StepStatus.RETRYING]))
    .values(status=StepStatus.RETRYING, attempts=0)
)

# The epoch is raised, so that whoever holds the run is refused its next write.
_CANCEL = (
    update(runs)
    .where(R.check_at.is_not(None))
    .values(
        status=Status.CANCELLED,
        slot=null(),
        epoch=R.epoch + 1,
        holder=null(),
        move_to=null(),
        check_at=null(),
        ended_at=bindparam("now"),
    )
    .returning(R.id, R.parent_id)
)


def retry(store: RunStore, run_id: str) -> int:
    """Let a failed or cancelled run go on from its done steps, with fresh tries, on its backend.

    Children that were cancelled with it come back too; how many. Raises UnknownRun, or
    RunNotMovable where the run is open or succeeded.
    """
    now = store.clock()
    with store.db.begin() as connection:
        first = _REOPEN.where(R.id == run_id, R.status.in_([Status.FAILED, Status.CANCELLED]))
        back = _reopen(connection, first, now, store.check)
        if not back:
            raise _refusal(connection, run_id, "retried")
        level = back
        while level:
            level = [
                run
                for some in _chunks(level)
                for run in _reopen(
                    connection,
                    _REOPEN.where(
                        R.parent_id.in_(some), R.status == Status.CANCELLED, R.error == CASCADED
                    ),
                    now,
                    store.check,
                )
            ]
            back = [*back, *level]
    for some in _chunks(back):
        store.send(some)
    return len(back) - 1


def cancel(store: RunStore, run_id: str) -> int:
    """Call off an open run and all that is open below it; how many runs below it.

    A joining parent goes on. A cancelled run whose cancelling was cut short is finished with.
    Raises UnknownRun, or RunNotMovable where there is nothing to cancel.
    """
    now = store.clock()
    with store.db.begin() as connection:
        row = connection.execute(_CANCEL.where(R.id == run_id), {"now": now}).one_or_none()
        refusal = None if row is not None else _refusal(connection, run_id, "cancelled")
        parent = None if row is None else row.parent_id
        woken = parent is not None and ledger.wake_parent(
            connection, parent, now, now + store.check
        )
    if woken and parent is not None:
        store.send([parent])
    # Below a run that is committed as cancelled no new child can appear. In transactions of their
    # own: a child that ends locks itself, then its parent, and would deadlock with one for all.
    below = _cancel_below(store, run_id, now)
    if refusal is not None and below == 0:
        raise refusal
    return below


def _cancel_below(store: RunStore, run_id: str, now: datetime) -> int:
    level = [run_id]
    count = 0
    while level:
        children: list[str] = []
        for some in _chunks(level):
            called_off = _CANCEL.where(R.parent_id.in_(some)).values(error=CASCADED)
            with store.db.begin() as connection:
                count += len(connection.execute(called_off, {"now": now}).all())
                below = select(R.id).where(R.parent_id.in_(some))
                children += connection.execute(below).scalars()
        level = children
    return count


def _reopen(
    connection: Connection, statement: object, now: datetime, check: timedelta
) -> list[str]:
    bound = {"now": now, "new_check_at": now + check}
    back = list(connection.execute(statement, bound).scalars())  # type: ignore[call-overload]
    for some in _chunks(back):
        connection.execute(_FRESH_TRIES.where(S.run_id.in_(some)))
    return back


def _refusal(connection: Connection, run_id: str, verb: str) -> UnknownRun | RunNotMovable:
    status = connection.execute(select(R.status).where(R.id == run_id)).scalar_one_or_none()
    if status is None:
        return UnknownRun(f"no run {run_id!r}")
    return RunNotMovable(f"run {run_id} is {status} and cannot be {verb}")


def _chunks(items: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), CHUNK):
        yield list(items[start : start + CHUNK])

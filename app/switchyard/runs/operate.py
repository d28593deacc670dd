"""What an operator may do to a run: retry one that failed, or cancel one that is open."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    null,
    or_,
    select,
    update,
)

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.errors import RunNotMovable, UnknownRun
from app.switchyard.runs import children
from app.switchyard.runs.models import ENDED, VOID, Status, StepStatus, new, runs, steps
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.store import SENT, RunStore, chunks

CASCADED = "cancelled with its parent"
"""The error of a run that was cancelled with its parent. A retry of the parent reopens it."""
THERE = "cancelled at its backend"

_ENDED = R.status.in_([Status.FAILED, Status.CANCELLED])
_BACK = select(R.id).where(R.id == bindparam("root"), _ENDED).cte("back", recursive=True)
_BACK = _BACK.union_all(
    select(R.id).where(R.parent_id == _BACK.c.id, R.status == Status.CANCELLED, R.error == CASCADED)
)
_REOPEN = (
    update(runs)
    # The status is checked again, since another retry may have changed a row that was locked.
    .where(R.id.in_(select(_BACK.c.id)), _ENDED)
    .values(
        **VOID,
        **dict.fromkeys(("move_to", "send_at", "ended_at", "result", "error"), null()),
        **new(runs, "due_at", "check_at"),
        status=Status.PENDING,
        attempt=1,
        losses=0,
    )
    .returning(R.id)
)
# The attempts at an unfinished step start again: one that had used them up would fail at once.
_FRESH_ATTEMPTS = (
    update(steps)
    .where(S.status.in_([StepStatus.FAILED, StepStatus.RETRYING]))
    .values(status=StepStatus.RETRYING, attempts=0)
)
# The epoch rises, so that the holder's next write is refused.
_CANCEL = (
    update(runs)
    .where(R.check_at.is_not(None))
    .values(**ENDED, **new(runs, "ended_at"), status=Status.CANCELLED, epoch=R.epoch + 1)
    .returning(R.parent_id, *(c for c in SENT if c.key != "epoch"), (R.epoch - 1).label("epoch"))
)


def retry(store: RunStore, run_id: str, by: By | None = None) -> int:
    """Let a failed or cancelled run continue after its finished steps, with fresh attempts, on its
    backend.

    Children that were cancelled with it continue too; returns how many. With `by` it is recorded
    in the audit as an act of its own. Raises UnknownRun, or RunNotMovable where the run is open or
    succeeded.
    """
    now = store.clock()
    bound = {"root": run_id, "new_due_at": now, "new_check_at": now + store.check}
    with store.db.begin() as connection:
        connection.execute(select(R.id).where(R.id == run_id).with_for_update())
        back = connection.scalars(_REOPEN, bound).all()
        if run_id not in back:
            raise _refusal(connection, run_id, "retried")
        for some in chunks(back):
            connection.execute(_FRESH_ATTEMPTS.where(S.run_id.in_(some)))
        if by is not None:
            audit.record(connection, "retry", by, now, run_id=run_id, count=len(back))
    store.send(back)
    return len(back) - 1


def cancelled_there(store: RunStore, run_id: str, epoch: int, holder: str) -> bool:
    """Cancel a run whose delivery was cancelled at its backend. Whether the run was cancelled.

    A run that has continued without that delivery is left alone: it must be held by `holder`, or
    by nobody and stand at `epoch`.
    """
    is_of = or_(R.holder == holder, and_(R.holder.is_(None), R.epoch == epoch))
    try:
        cancel(store, run_id, is_of, error=THERE)
    except (UnknownRun, RunNotMovable):
        return False
    return True


def cancel(
    store: RunStore,
    run_id: str,
    *only: ColumnElement[bool],
    error: str | None = None,
    by: By | None = None,
) -> int:
    """Cancel an open run and every open run below it. Returns how many there were below it.

    Their backends take back the messages they can. A joining parent continues. A cancellation that
    was interrupted is completed. `only` gives further conditions on the run; `by` is as in retry().

    Raises UnknownRun, or RunNotMovable where there is nothing to cancel.
    """
    now = store.clock()
    refusal, act, woken = None, None, list[str]()
    chosen = _CANCEL.where(R.id == run_id, *only)
    with store.db.begin() as connection:
        chosen = chosen if error is None else chosen.values(error=error)
        row = connection.execute(chosen, {"new_ended_at": now}).one_or_none()
        if row is None:
            refusal = _refusal(connection, run_id, "cancelled")
            if only:  # the run may be open, and so may those below it
                raise refusal
        elif row.parent_id is not None:
            woken = children.wake(connection, store, row.parent_id)
        if row is not None and by is not None:
            act = audit.record(connection, "cancel", by, now, run_id=run_id)
    if row is not None:
        store.take_back([row])
    store.send(woken)
    # No new child can appear below a run that is committed as cancelled. Each level has its own
    # transaction: a child that ends locks itself, then its parent, and would deadlock with one.
    below = _cancel_below(store, run_id, now)
    if below and by is not None:
        with store.db.begin() as connection:
            if act is None:  # the run had been cancelled before, and what is below it only now
                audit.record(connection, "cancel", by, now, run_id=run_id, count=below)
            else:
                audit.add(connection, act, "cancel", by, below)
    if refusal is not None and below == 0:
        raise refusal
    return below


def _cancel_below(store: RunStore, run_id: str, now: datetime) -> int:
    level = [run_id]
    count = 0
    while level:
        below: list[str] = []
        for some in chunks(level):
            cancelled = _CANCEL.where(R.parent_id.in_(some)).values(error=CASCADED)
            with store.db.begin() as connection:
                gone = connection.execute(cancelled, {"new_ended_at": now}).all()
                below += connection.scalars(select(R.id).where(R.parent_id.in_(some)))
            store.take_back(gone)
            count += len(gone)
        level = below
    return count


def _refusal(connection: Connection, run_id: str, verb: str) -> UnknownRun | RunNotMovable:
    status = connection.execute(select(R.status).where(R.id == run_id)).scalar_one_or_none()
    if status is None:
        return UnknownRun(f"no run {run_id!r}")
    return RunNotMovable(f"run {run_id} is {status} and cannot be {verb}")

"""Parents and children: who waits for whom, and how the last child wakes its parent."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, literal, null, select, update

from app.switchyard.runs.models import VOID, Status, StepStatus, new, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.store import RunStore

_JOINS = select(literal(1)).where(
    S.run_id == bindparam("parent"), S.status == StepStatus.WAITING, S.until.is_(None)
)
_WAKE = (
    update(runs)
    .where(R.id == bindparam("parent"), R.status == Status.WAITING, _JOINS.exists())
    .values(**VOID, **new(runs, "due_at", "check_at"), send_at=null())
)


def wake(connection: Connection, store: RunStore, parent_id: str) -> list[str]:
    """Wake a joining parent if none of its children is open. Returns the runs to send after the
    commit.

    The parent's row is locked first: siblings that end at the same time queue up here, so the last
    of them sees that the others have ended.
    """
    connection.execute(select(R.id).where(R.id == parent_id).with_for_update(key_share=True))
    if any_open(connection, parent_id):
        return []
    now = store.clock()
    bound = {"parent": parent_id, "new_due_at": now, "new_check_at": now + store.check}
    return [parent_id] if connection.execute(_WAKE, bound).rowcount == 1 else []


def any_open(connection: Connection, run_id: str) -> bool:
    """Whether a child of the run has not ended."""
    children = select(literal(1)).where(R.parent_id == run_id, R.check_at.is_not(None)).limit(1)
    return connection.execute(children).first() is not None


def by_status(connection: Connection, run_id: str) -> dict[str, int]:
    """How many children the run has, by status."""
    counts = select(R.status, func.count()).where(R.parent_id == run_id).group_by(R.status)
    return {row[0]: row[1] for row in connection.execute(counts)}

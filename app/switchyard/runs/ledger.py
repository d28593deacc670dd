"""The ledger of runs: claim, record, wake, look; every write is fenced by the claim's epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select
from sqlalchemy.orm import Session

from app.switchyard.errors import LeaseLost
from app.switchyard.job import JobSpec
from app.switchyard.runs.backend import Message
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.models import StepStatus
from app.switchyard.runs.statements import (
    CLAIM_PLACE,
    SAVE_REF,
    SAVE_STEP,
    WAKE_PARENT,
    claim_unless,
)

AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A run this process holds, fenced by `epoch`, until its lease ends."""

    run_id: str
    job: str
    key: str
    payload: str
    backend: str
    epoch: int
    attempt: int
    losses: int
    parent_id: str | None
    created_at: datetime
    first: bool
    """Whether no slice of the run was ever claimed before: it has no steps."""
    move_to: str | None

    def fence(self, **more: Any) -> dict[str, Any]:
        """The parameters of a statement that only a claim that stands may execute, and `more`."""
        return {"run_id": self.run_id, "held_epoch": self.epoch, **more}


@dataclass(frozen=True, slots=True)
class Bid:
    """Who would take which run, sent at which epoch, when and until when."""

    run_id: str
    epoch: int
    by: str
    now: datetime
    until: datetime

    def bound(self) -> dict[str, Any]:
        """Its parameters in a statement, without the lease."""
        return {
            "run_id": self.run_id,
            "sent_epoch": self.epoch,
            "by": self.by,
            "now": self.now,
        }


def claim(connection: Connection, bid: Bid, capped: tuple[str, ...] = ()) -> Claim | None:
    """Take the run, if it is due and free at the bid's epoch (or already the bidder's).

    None where it is not, or where its job is one of `capped`: that one needs a place as well.
    """
    bound = bid.bound() | {"lease_until": bid.until}
    return _claimed(connection.execute(claim_unless(capped), bound).one_or_none())


def claim_place(connection: Connection, bid: Bid, place: int) -> Claim | None:
    """The same for a run of a capped job. Raises IntegrityError where another has the place."""
    bound = bid.bound() | {"lease_until": bid.until, "place": place}
    return _claimed(connection.execute(CLAIM_PLACE, bound).one_or_none())


def standing(connection: Connection, run_id: str) -> AnyRow | None:
    """What decides whether the run may be claimed."""
    columns = (R.job, R.status, R.epoch, R.holder, R.due_at, R.check_at)
    return connection.execute(select(*columns).where(R.id == run_id)).one_or_none()


def _claimed(row: AnyRow | None) -> Claim | None:
    if row is None:
        return None
    return Claim(**row._asdict(), first=row.epoch == 2)


def fenced(rowcount: int, claimed: Claim) -> None:
    """Raises LeaseLost where a fenced statement found the run no longer held."""
    if rowcount != 1:
        raise LeaseLost(f"run {claimed.run_id} was taken over from epoch {claimed.epoch}")


def save_step(
    on: Connection | Session,
    claimed: Claim,
    name: str,
    status: StepStatus,
    now: datetime,
    *,
    attempts: int = 1,
    result: str | None = None,
    error: str | None = None,
    until: datetime | None = None,
) -> None:
    """Record a step's state; the fence is the caller's, in the same transaction."""
    dialect = on.get_bind().dialect.name if isinstance(on, Session) else on.dialect.name
    on.execute(
        SAVE_STEP[dialect],
        {
            "run_id": claimed.run_id,
            "name": name,
            "new_status": status,
            "attempts": attempts,
            "backend": claimed.backend,
            "new_result": result,
            "new_error": error,
            "until": until,
            "now": now,
        },
    )


def load_steps(connection: Connection, run_id: str) -> dict[str, AnyRow]:
    """The run's recorded steps by name."""
    rows = connection.execute(
        select(S.name, S.status, S.attempts, S.result, S.error, S.until).where(S.run_id == run_id)
    )
    return {row.name: row for row in rows}


def wake_parent(connection: Connection, parent_id: str, now: datetime, check_at: datetime) -> bool:
    """Let a joining parent go on if no child of it is open; whether it was woken.

    The parent's row is locked first: siblings that end at once queue up here, so that the last of
    them sees the others' ends.
    """
    lock = select(R.id).where(R.id == parent_id).with_for_update(key_share=True)
    connection.execute(lock)
    if open_children(connection, parent_id):
        return False
    bound = {"parent": parent_id, "now": now, "new_check_at": check_at}
    return connection.execute(WAKE_PARENT, bound).first() is not None


def open_children(connection: Connection, run_id: str) -> bool:
    """Whether a child of the run is not done with."""
    children = select(literal(1)).where(R.parent_id == run_id, R.check_at.is_not(None)).limit(1)
    return connection.execute(children).first() is not None


def children_by_status(connection: Connection, run_id: str) -> dict[str, int]:
    """How many children of the run stand in which status."""
    counts = select(R.status, func.count()).where(R.parent_id == run_id).group_by(R.status)
    return {row[0]: row[1] for row in connection.execute(counts)}


def messages(connection: Connection | Session, ids: Sequence[str]) -> list[AnyRow]:
    """The rows that messages about these runs are made from."""
    columns = (R.id, R.job, R.backend, R.payload, R.epoch, R.sends, R.due_at, R.sent_ref)
    return list(connection.execute(select(*columns).where(R.id.in_(ids)).order_by(R.id)))


def save_refs(connection: Connection, refs: dict[str, str], backends: dict[str, str]) -> None:
    """Record the reference that its backend (`backends`, by run id) gave each run; not of one that
    has moved on meanwhile, whose new backend would be taken to have it."""
    # Younger ones first, as whoever else locks many does.
    rows = [
        {"run": run, "sent_to": backends[run], "ref": refs[run]}
        for run in sorted(refs, reverse=True)
    ]
    if rows:
        connection.execute(SAVE_REF, rows)


def as_message(row: AnyRow, spec: JobSpec) -> Message:
    """The message about one row of `messages`."""
    return Message(
        run_id=row.id,
        job=row.job,
        backend=row.backend,
        queue=spec.queue,
        event=spec.event,
        payload=row.payload,
        epoch=row.epoch,
        sends=row.sends,
        due_at=row.due_at,
        timeout=spec.timeout,
        ref=row.sent_ref,
    )

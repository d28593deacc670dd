"""The ledger of runs: a row for each run, and one for each step that began, waits or ended.

Failed attempts and hand-offs have rows of their own, which only people read.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    null,
    or_,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import Base, partial_index


class Status(StrEnum):
    """How far a run is."""

    PENDING = "pending"
    """Recorded but not yet claimed, whether due now or later."""
    RUNNING = "running"
    """Claimed by a process whose lease has not run out."""
    WAITING = "waiting"
    """Between two slices: asleep, before a retry, or until children or the backend's next call."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (Status.PENDING, Status.RUNNING, Status.WAITING)
"""The statuses of a run that has not ended."""


class StepStatus(StrEnum):
    """How far a step is."""

    DONE = "done"
    RETRYING = "retrying"
    WAITING = "waiting"
    """A sleep or a join is under way."""
    FAILED = "failed"
    BEGUN = "begun"
    """An at-most-once step has begun. Its effect may or may not have happened."""
    UNKNOWN = "unknown"
    """An at-most-once step whose outcome nobody knows. It is never begun again."""


RUN_ID = re.compile("[0-9A-Za-z]{1,32}")
"""What is taken for a run's id. Those of new_run_id() are one kind of it."""

INTEGER_END = 2**31
"""The first number above those of an INTEGER column, such as that of an epoch."""


def new_run_id() -> str:
    """A new id of 26 characters that sorts by time: 48 bits of milliseconds and 56 random bits."""
    return _stamp(time.time_ns() // 1_000_000) + os.urandom(7).hex()


def id_at(moment: datetime) -> str:
    """The smallest id that a run created at `moment` can have."""
    return _stamp(max(0, int(moment.timestamp() * 1000)))


def _stamp(milliseconds: int) -> str:
    return f"{milliseconds:012x}"[-12:]


def _index(name: str, columns: str, where: str, *, unique: bool = False) -> Index:
    return partial_index(name, *columns.split(), where=where, unique=unique)


class RunRow(Base):
    """One run of a job: what was asked for, which backend does it, and how far it is."""

    __tablename__ = "switchyard_runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job: Mapped[str] = mapped_column(String(100))
    key: Mapped[str] = mapped_column(String(255))
    payload: Mapped[str] = mapped_column(Text)
    backend: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(String(40))
    stage: Mapped[str] = mapped_column(String(20))
    stage_version: Mapped[int]
    status: Mapped[str] = mapped_column(String(20), default=Status.PENDING)
    epoch: Mapped[int] = mapped_column(default=1)
    """The fence. Every claim, takeover and hand-off raises it."""
    holder: Mapped[str | None] = mapped_column(String(64))
    """The only delivery that may continue the run after this slice, where there is just one."""
    sends: Mapped[int] = mapped_column(default=0)
    """How often this epoch was resent because its queue had lost it."""
    sent_ref: Mapped[str | None] = mapped_column(String(255))
    """The backend's own reference for the message, where it gives one."""
    move_to: Mapped[str | None] = mapped_column(String(20))
    """The backend that a running run moves to at its next step boundary."""
    attempt: Mapped[int] = mapped_column(default=1)
    """The number of the current attempt at the current step (or at the body), from 1."""
    losses: Mapped[int] = mapped_column(default=0)
    """Consecutive takeovers without a step finished in between."""
    slot: Mapped[int | None]
    """The concurrency slot that a running run occupies, where its job has a cap."""
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("switchyard_runs.id"))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """The earliest time at which it may be claimed."""
    check_at: Mapped[datetime | None]
    """When the relay must look at the run: at the end of its lease while it is running, otherwise
    at the time by which it should have been claimed. None once the run has ended."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    result: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[str | None] = mapped_column(Text)
    """The progress that its body reported, as JSON: `n`, `of`, `text` and `at`."""
    meta: Mapped[str | None] = mapped_column(Text)
    """The contents of rq's `job.meta`, as JSON."""
    send_at: Mapped[datetime | None]
    """When the relay must send the run, where nobody else will."""
    idle_since: Mapped[datetime | None]
    """Since when its backend should have delivered it, where that is later than due_at."""
    message_at: Mapped[datetime | None]
    """When the message that led to the latest claim was sent, where that is known."""
    trace: Mapped[str | None] = mapped_column(Text)
    """The W3C traceparent of the call that dispatched it, where tracing is on."""

    __table_args__ = (
        UniqueConstraint("job", "key"),
        CheckConstraint(
            f"(check_at IS NULL) = (status IN ('{Status.SUCCEEDED}', '{Status.FAILED}',"
            f" '{Status.CANCELLED}'))",
            name="open_is_checked",
        ),
        _index("ix_switchyard_runs_open", "check_at job backend", "check_at IS NOT NULL"),
        _index("ix_switchyard_runs_unsent", "send_at", "send_at IS NOT NULL"),
        _index("ix_switchyard_runs_failed", "ended_at job backend", "status = 'failed'"),
        _index(
            "ix_switchyard_runs_ended",
            "job backend ended_at",
            "status IN ('succeeded', 'failed')",
        ),
        _index("ix_switchyard_runs_cancelled", "ended_at", "status = 'cancelled'"),
        # The condition is true of every run. It reserves the index for queries that repeat it: to
        # count by job, SQLite would otherwise scan all of it rather than the few open runs.
        _index("ix_switchyard_runs_newest", "job id", "epoch > 0"),
        _index(
            "ix_switchyard_runs_troubled",
            "id job backend status",
            "error IS NOT NULL OR status = 'cancelled'",
        ),
        _index("ix_switchyard_runs_children", "parent_id check_at", "parent_id IS NOT NULL"),
        _index("uq_switchyard_runs_slot", "job slot", "slot IS NOT NULL", unique=True),
    )


IS_OPEN = RunRow.check_at > datetime(2000, 1, 1, tzinfo=UTC)
"""The run has not ended. It is a range because SQLite uses the partial index of open runs only for
one."""


NOT_SENT = "not sent: "
"""How the error of an open run begins whose backend refuses it."""
IS_REFUSED = RunRow.error.startswith(NOT_SENT)
"""Whether its backend refuses the run, which is then sent less and less often."""
ACCEPTED: dict[str, Any] = {"error": case((IS_REFUSED, null()), else_=RunRow.error)}
"""Values of a run that a backend accepts, though one may have refused it before."""


class StepRow(Base):
    """A named piece of a run's body: its result once it is done, its failures until then."""

    __tablename__ = "switchyard_steps"

    run_id: Mapped[str] = mapped_column(
        ForeignKey("switchyard_runs.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(default=1)
    backend: Mapped[str] = mapped_column(String(20))
    """The backend that did it last."""
    result: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    until: Mapped[datetime | None]
    """When a sleep ends."""
    updated_at: Mapped[datetime]
    began_at: Mapped[datetime | None]
    """When its latest attempt, or its wait, began."""


class FailureRow(Base):
    """One failed attempt at a step, or at the body outside of any step."""

    __tablename__ = "switchyard_failures"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("switchyard_runs.id", ondelete="CASCADE"))
    job: Mapped[str] = mapped_column(String(100))
    step: Mapped[str | None] = mapped_column(String(200))
    """None outside of any step."""
    attempt: Mapped[int]
    backend: Mapped[str] = mapped_column(String(20))
    began_at: Mapped[datetime | None]
    at: Mapped[datetime]
    """When it failed or was taken over."""
    error: Mapped[str] = mapped_column(String(200))
    """The error's class, or TAKEN_OVER where the process never came back."""
    message: Mapped[str] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_switchyard_failures_run", "run_id"),
        Index("ix_switchyard_failures_job", "job", "at"),
    )


class HandoffRow(Base):
    """One hand-off: a run changed backend."""

    __tablename__ = "switchyard_handoffs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("switchyard_runs.id", ondelete="CASCADE"))
    job: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime]
    from_backend: Mapped[str] = mapped_column(String(20))
    to_backend: Mapped[str] = mapped_column(String(20))
    epoch: Mapped[int]
    """The first epoch on the new backend."""

    __table_args__ = (
        Index("ix_switchyard_handoffs_run", "run_id"),
        Index("ix_switchyard_handoffs_job", "job", "at"),
    )


AnyRow = Row[*tuple[Any, ...]]
runs = cast(Table, RunRow.__table__)
steps = cast(Table, StepRow.__table__)
failures = cast(Table, FailureRow.__table__)
handoffs = cast(Table, HandoffRow.__table__)
TAKEN_OVER = "taken over"
"""The error recorded for an attempt whose lease ran out."""

VOID: dict[str, Any] = {"epoch": RunRow.epoch + 1, "holder": null(), "sends": 0, "sent_ref": null()}
"""Values that make every earlier message and claim of a run void."""
ENDED: dict[str, Any] = dict.fromkeys(("slot", "holder", "move_to", "check_at", "send_at"), null())
"""The columns that are empty once a run has ended."""


def is_any(column: ColumnElement[Any], *values: str) -> ColumnElement[bool]:
    """The column has one of these values. In the statements that every run executes: SQLAlchemy
    works out the list of an IN anew each time."""
    return or_(*(column == value for value in values))


def new(table: Table, *columns: str) -> dict[str, Any]:
    """Bind parameters for these columns, each named `new_` plus the column's name."""
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}

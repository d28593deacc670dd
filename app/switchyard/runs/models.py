"""The ledger of runs: one row per intent, and one per step that was begun, waits or has ended; and
per failed attempt and per hand-off, which only people read."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    null,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import Base, partial_index


class Status(StrEnum):
    """How far a run is."""

    PENDING = "pending"
    """Recorded, not yet claimed: due now or later."""
    RUNNING = "running"
    """Claimed by a process, until its lease ends."""
    WAITING = "waiting"
    """Between two slices: for a sleep, a retry's gap, children, or the backend's next call."""
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
    """A sleep or a join that has begun."""
    FAILED = "failed"
    BEGUN = "begun"
    """A step that is done at most once was begun: it may have been done since."""
    UNKNOWN = "unknown"
    """It was begun, and nobody knows whether it was done: it is not begun again."""


def new_run_id() -> str:
    """A new id of 26 characters that sorts by its time: 48 bits of milliseconds, 56 random ones."""
    return _stamp(time.time_ns() // 1_000_000) + os.urandom(7).hex()


def id_at(moment: datetime) -> str:
    """The least id of a run created at this time."""
    return _stamp(max(0, int(moment.timestamp() * 1000)))


def _stamp(milliseconds: int) -> str:
    return f"{milliseconds:012x}"[-12:]


def _index(name: str, columns: str, where: str, *, unique: bool = False) -> Index:
    return partial_index(name, *columns.split(), where=where, unique=unique)


class RunRow(Base):
    """One intent to do a job."""

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
    """The fence: each claim, takeover and hand-off raises it."""
    holder: Mapped[str | None] = mapped_column(String(64))
    """Which delivery may go on with the run after a slice, if only one may."""
    sends: Mapped[int] = mapped_column(default=0)
    """How often this epoch was sent again because its queue had lost it."""
    sent_ref: Mapped[str | None] = mapped_column(String(255))
    """The backend's own reference for what it was sent, where it gives one."""
    move_to: Mapped[str | None] = mapped_column(String(20))
    """The backend a running run changes to at its next step boundary."""
    attempt: Mapped[int] = mapped_column(default=1)
    """The current try of the current step (or of the body outside steps), from 1."""
    losses: Mapped[int] = mapped_column(default=0)
    """Takeovers in a row without a finished step."""
    slot: Mapped[int | None]
    """Which of its job's concurrency slots a running run has, where the job has a cap."""
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("switchyard_runs.id"))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """Not to be claimed before."""
    check_at: Mapped[datetime | None]
    """When the relay must look: the lease's end while running, else when it should be claimed by.
    None once the run has ended."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    result: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[str | None] = mapped_column(Text)
    """How far its body says it is, as JSON: `n`, `of`, `text` and `at`."""
    meta: Mapped[str | None] = mapped_column(Text)
    """What rq's `job.meta` keeps, as JSON."""
    send_at: Mapped[datetime | None]
    """When the relay is to send it, where nobody else does."""
    idle_since: Mapped[datetime | None]
    """Since when its backend has been to deliver it, where that is later than due_at."""
    message_at: Mapped[datetime | None]
    """When the message was sent that it was last claimed by, where that is known."""
    trace: Mapped[str | None] = mapped_column(Text)
    """The W3C traceparent of the call that dispatched it, where traces are on."""

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
        # All runs: the condition keeps it for who says it. For a sum by job SQLite would go through
        # all of it, in place of the few open runs.
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
"""Of a run: it has not ended. Said as a range, since SQLite reads the partial index of open runs by
nothing else."""


class StepRow(Base):
    """A named piece of a run's body: its result once done, its failures until then."""

    __tablename__ = "switchyard_steps"

    run_id: Mapped[str] = mapped_column(
        ForeignKey("switchyard_runs.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(default=1)
    backend: Mapped[str] = mapped_column(String(20))
    """Which backend did it last."""
    result: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    until: Mapped[datetime | None]
    """When a sleep ends."""
    updated_at: Mapped[datetime]
    began_at: Mapped[datetime | None]
    """When its last attempt, or its wait, began."""


class FailureRow(Base):
    """One attempt at a step, or at the body outside of steps, that failed."""

    __tablename__ = "switchyard_failures"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("switchyard_runs.id", ondelete="CASCADE"))
    job: Mapped[str] = mapped_column(String(100))
    step: Mapped[str | None] = mapped_column(String(200))
    """None outside of steps."""
    attempt: Mapped[int]
    backend: Mapped[str] = mapped_column(String(20))
    began_at: Mapped[datetime | None]
    at: Mapped[datetime]
    """When it failed, or was taken over."""
    error: Mapped[str] = mapped_column(String(200))
    """The error's class; TAKEN_OVER of an attempt whose process did not come back."""
    message: Mapped[str] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_switchyard_failures_run", "run_id"),
        Index("ix_switchyard_failures_job", "job", "at"),
    )


class HandoffRow(Base):
    """One change of a run's backend."""

    __tablename__ = "switchyard_handoffs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("switchyard_runs.id", ondelete="CASCADE"))
    job: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime]
    from_backend: Mapped[str] = mapped_column(String(20))
    to_backend: Mapped[str] = mapped_column(String(20))
    epoch: Mapped[int]
    """The first one on its new backend."""

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
"""The error of an attempt whose lease ran out."""

VOID: dict[str, Any] = {"epoch": RunRow.epoch + 1, "holder": null(), "sends": 0, "sent_ref": null()}
"""The values that make every earlier message and claim of a run void."""
ENDED: dict[str, Any] = dict.fromkeys(("slot", "holder", "move_to", "check_at", "send_at"), null())
"""What a run that has ended has no more."""


def new(table: Table, *columns: str) -> dict[str, Any]:
    """The values of these columns as parameters of a statement, `new_` before their names."""
    return {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}

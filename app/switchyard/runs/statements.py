"""The SQL that moves a run: each statement a compare-and-set on its epoch, so that one writer wins.

Built once at import: SQLAlchemy then finds their compiled form by identity.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Table,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningUpdate

from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status, StepStatus
from app.switchyard.runs.models import StepRow as S

runs = cast(Table, R.__table__)
steps = cast(Table, S.__table__)
_TIME = R.due_at.type
_NEW_STATUS = bindparam("new_status", type_=R.status.type)
_HELD = (
    R.id == bindparam("run_id"),
    R.epoch == bindparam("held_epoch"),
    R.status == Status.RUNNING,
)
"""The fence: what a claim may write to, as long as it stands."""
_STEP: dict[str, BindParameter[Any]] = {
    "status": bindparam("new_status"),
    "attempts": bindparam("attempts"),
    "backend": bindparam("backend"),
    "result": bindparam("new_result"),
    "error": bindparam("new_error"),
    "until": bindparam("until"),
    "updated_at": bindparam("now"),
}

_COLUMNS = (
    R.id.label("run_id"),
    R.job,
    R.key,
    R.payload,
    R.backend,
    R.epoch,
    R.attempt,
    R.losses,
    R.parent_id,
    R.created_at,
    R.move_to,
)

INSERT = {
    name: insert(runs)
    .on_conflict_do_nothing(index_elements=["job", "key"])
    .execution_options(preserve_rowcount=True)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
"""A new run, or nothing where its (job, key) is known."""

_SENT = and_(
    R.holder.is_(None),
    R.epoch == bindparam("sent_epoch"),
    R.status.in_([Status.PENDING, Status.WAITING]),
)
_OWN = R.holder == bindparam("by")

# Only the epoch that was sent may claim a run nobody holds; a holder (an Inngest run, which comes
# back for each step) may go on with its own, and with one whose lease it let run out.
_CLAIM = (
    update(runs)
    .where(
        R.id == bindparam("run_id"),
        R.due_at <= bindparam("now"),
        or_(
            _SENT,
            and_(
                _OWN,
                or_(
                    R.status == Status.WAITING,
                    and_(R.status == Status.RUNNING, R.check_at < bindparam("now")),
                ),
            ),
        ),
    )
    .values(
        epoch=R.epoch + 1,
        holder=bindparam("by"),
        status=Status.RUNNING,
        check_at=bindparam("lease_until"),
        started_at=func.coalesce(R.started_at, bindparam("now", type_=R.started_at.type)),
    )
    .returning(*_COLUMNS)
)


@cache
def claim_unless(jobs: tuple[str, ...]) -> ReturningUpdate[*tuple[Any, ...]]:
    """The claim of a run that needs no place: one of none of these jobs."""
    return _CLAIM.where(*(R.job != job for job in jobs))


CLAIM_PLACE = _CLAIM.values(slot=bindparam("place"))
"""The same with a place; the unique index refuses one that another run of the job has."""

TAKEN = select(R.slot).where(
    R.job == bindparam("of_job"), R.slot.is_not(None), R.id != bindparam("run_id")
)
"""The places of a job that other runs have."""

# As it may be claimed, and is not: only then, so that whoever did claim it meanwhile is not undone.
PUT_OFF = (
    update(runs)
    .where(
        R.id == bindparam("run_id"),
        R.due_at <= bindparam("now"),
        or_(_SENT, and_(_OWN, R.status == Status.WAITING)),
    )
    .values(due_at=bindparam("new_due_at"), check_at=bindparam("new_check_at"))
)

RENEW = update(runs).where(*_HELD).values(check_at=bindparam("lease_until"))

_ASKED = R.move_to.is_not(None)


def _moved(when: ColumnElement[bool]) -> dict[str, Any]:
    """A run that is given back moves at once if it was asked to: whoever held it may never come
    back, and what it waits for may be days away."""
    return {
        "backend": case((when, R.move_to), else_=R.backend),
        "reason": case((when, "HANDED_OVER"), else_=R.reason),
        "epoch": case((when, R.epoch + 1), else_=R.epoch),
        "sent_ref": case((when, null()), else_=R.sent_ref),
        "move_to": case((when, null()), else_=R.move_to),
    }


# A finished step: the lease is renewed or, where the backend takes one step per call, given back.
_LEAVES = and_(_NEW_STATUS == Status.WAITING, _ASKED)
STEP_DONE = (
    update(runs)
    .where(*_HELD)
    .values(
        status=bindparam("new_status"),
        slot=case((_NEW_STATUS == Status.RUNNING, R.slot), else_=null()),
        check_at=bindparam("new_check_at"),
        holder=case((_LEAVES, null()), else_=R.holder),
        attempt=1,
        losses=0,
        **_moved(_LEAVES),
    )
    .returning(R.move_to, R.epoch)
)

RELEASE = (
    update(runs)
    .where(*_HELD)
    .values(
        status=Status.WAITING,
        slot=null(),
        due_at=bindparam("new_due_at"),
        # Its next backend may keep no time.
        check_at=case(
            (_ASKED, bindparam("new_due_at", type_=_TIME)),
            else_=bindparam("new_check_at", type_=_TIME),
        ),
        holder=case((_ASKED, null()), else_=bindparam("new_holder", type_=R.holder.type)),
        attempt=bindparam("new_attempt"),
        error=bindparam("new_error"),
        sends=0,
        **_moved(_ASKED),
    )
    .returning(R.epoch)
)

END = (
    update(runs)
    .where(*_HELD)
    .values(
        status=bindparam("new_status"),
        slot=null(),
        ended_at=bindparam("now"),
        check_at=null(),
        holder=null(),
        move_to=null(),
        result=bindparam("new_result"),
        error=bindparam("new_error"),
    )
)

# The run changes backend: every earlier message and claim is void.
MOVE_HELD = (
    update(runs)
    .where(
        *_HELD,
        R.move_to.is_not(None),
    )
    .values(
        backend=R.move_to,
        reason="HANDED_OVER",
        move_to=null(),
        epoch=R.epoch + 1,
        holder=null(),
        status=Status.WAITING,
        slot=null(),
        due_at=bindparam("now"),
        check_at=bindparam("new_check_at"),
        sends=0,
        sent_ref=null(),
    )
    .returning(R.id)
)

SAVE_STEP = {
    name: insert(steps)
    .values(run_id=bindparam("run_id"), name=bindparam("name"), **_STEP)
    .on_conflict_do_update(
        index_elements=["run_id", "name"],
        set_=_STEP,
        # A commit whose outcome was lost may have stood: what is done stays done.
        where=steps.c.status.not_in([StepStatus.DONE, StepStatus.FAILED, StepStatus.UNKNOWN]),
    )
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}

WAKE_PARENT = (
    update(runs)
    .where(
        R.id == bindparam("parent"),
        R.status == Status.WAITING,
        select(literal(1))
        .where(
            S.run_id == bindparam("parent"),
            S.status == StepStatus.WAITING,
            S.until.is_(None),
        )
        .exists(),
    )
    .values(
        epoch=R.epoch + 1,
        holder=null(),
        due_at=bindparam("now"),
        check_at=bindparam("new_check_at"),
        sends=0,
        sent_ref=null(),
    )
    .returning(R.id)
)

# One that somebody has locked is about to change, and is left for the next look: to wait for it
# would be to wait, with everybody else's runs, for a process that stands still before its commit.
_UNLOCKED = R.id.in_(
    select(R.id)
    .where(R.id == bindparam("run_id"))
    .with_for_update(skip_locked=True, key_share=True)
)

TAKE_OVER = (
    update(runs)
    .where(
        _UNLOCKED,
        R.epoch == bindparam("seen_epoch"),
        R.status == Status.RUNNING,
        R.check_at <= bindparam("now"),
    )
    .values(
        status=Status.WAITING,
        slot=null(),
        epoch=R.epoch + 1,
        holder=null(),
        due_at=bindparam("new_due_at"),
        check_at=bindparam("new_check_at"),
        losses=R.losses + 1,
        sends=0,
        sent_ref=null(),
        # A move that was asked for happens here: nobody holds the run any more.
        backend=func.coalesce(R.move_to, R.backend),
        reason=case((R.move_to.is_not(None), "HANDED_OVER"), else_=R.reason),
        move_to=null(),
    )
)

# Sent again: under the same epoch while nobody holds the run, so that the first message still
# counts if it comes after all; under a new one where a holder was to come back and did not.
RESEND = (
    update(runs)
    .where(
        _UNLOCKED,
        R.epoch == bindparam("seen_epoch"),
        R.check_at == bindparam("seen_check_at"),
        R.status.in_([Status.PENDING, Status.WAITING]),
    )
    .values(
        epoch=case((R.holder.is_(None), R.epoch), else_=R.epoch + 1),
        sends=case((R.sent_ref.is_(None), R.sends), else_=R.sends + 1),
        holder=null(),
        sent_ref=null(),
        check_at=bindparam("new_check_at"),
    )
)


SAVE_REF = (
    update(runs)
    .where(
        R.id == bindparam("run"),
        R.check_at.is_not(None),
        R.backend == bindparam("sent_to"),
    )
    .values(sent_ref=bindparam("ref"))
)


def next_check(run_ids: list[str], now: datetime, check_at: datetime) -> Update:
    """Put off the next look at runs that are where they should be.

    One that somebody else has locked is about to change, and is left for the next look: to wait for
    it would be to wait in a circle for a drain, which locks many as well.
    """
    chosen = (R.id.in_(run_ids), R.check_at <= now, R.status != Status.RUNNING)
    free = select(R.id).where(*chosen).with_for_update(skip_locked=True, key_share=True)
    return update(runs).where(*chosen[1:], R.id.in_(free)).values(check_at=check_at)


# Runs nobody holds change backend at once; a running one is asked to at its next step boundary.
HAND_OVER = (
    update(runs)
    .where(R.status.in_([Status.PENDING, Status.WAITING]))
    .values(
        backend=bindparam("to"),
        reason="HANDED_OVER",
        epoch=R.epoch + 1,
        holder=null(),
        move_to=null(),
        sends=0,
        sent_ref=null(),
        check_at=case(
            (R.due_at > bindparam("now"), R.due_at), else_=bindparam("new_check_at", type_=_TIME)
        ),
    )
    .returning(R.id)
)

# One that already is where it is to be was asked to leave, and now stays.
ASK_TO_MOVE = (
    update(runs)
    .where(R.status == Status.RUNNING)
    .values(move_to=case((R.backend == bindparam("to"), null()), else_=bindparam("to")))
)


def elsewhere(to: str) -> ColumnElement[bool]:
    """Whether a run is not at backend `to`, or is about to leave it."""
    return or_(R.backend != to, R.move_to != to)

"""Claim a run: a compare-and-set on its epoch that takes a lease and, for some jobs, a slot.

A job may cap how many of its runs are running at once, over all backends together. A running one
occupies one of the concurrency slots 1 to that cap: its row has the slot's number, and a unique
index lets no two runs have the same one. The claim itself takes the slot and whatever ends the
slice gives it back, so a dead holder's slot is free as soon as its run is taken over. The cap is
exceeded only by a holder that is alive and does not know that it lost its run (which was taken
over while its process was frozen, or was cancelled), until the fence refuses its next write.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, and_, bindparam, func, null, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.models import AnyRow, Status, is_any, new, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.record import taken_over
from app.switchyard.runs.steps import CLAIMED_COLUMNS, ClaimedRun
from app.switchyard.runs.store import RunStore

SLOT_WAIT_SECONDS = 0.5
"""How long a worker waits for a slot. If it put off everything in its queue at once, the slots
would stay empty until the relay had sent those runs again."""
_LOOK_SECONDS = 0.05
_TRIES = 3
"""How many slots to try where others are quicker."""
_OFF_MS, _SPREAD_MS = 1000, 2000

_DUE = (R.id == bindparam("run_id"), R.due_at <= bindparam("now"))
_SENT = and_(
    R.holder.is_(None),
    R.epoch == bindparam("sent_epoch"),
    is_any(runs.c.status, Status.PENDING, Status.WAITING),
)
_OWN = R.holder == bindparam("by")

# A run without a holder may be claimed only at the epoch that was sent. A holder (an Inngest run,
# which calls again for each step) may continue its own.
_TAKES = {
    "epoch": R.epoch + 1,
    "holder": bindparam("by"),
    "status": Status.RUNNING,
    "check_at": bindparam("lease_until"),
    "send_at": null(),
    "sends": 0,
    "message_at": bindparam("sent_at", type_=R.message_at.type),
    "started_at": func.coalesce(R.started_at, bindparam("now", type_=R.started_at.type)),
}
_CLAIM = (
    update(runs)
    .where(*_DUE, or_(_SENT, and_(_OWN, R.status == Status.WAITING)))
    .values(_TAKES)
    .returning(*CLAIMED_COLUMNS)
)
# Skips a locked run: waiting for one would keep all the others waiting.
_FREE = (
    select(R.id)
    .where(R.id.in_(bindparam("run_ids", expanding=True)), R.due_at <= bindparam("now"), _SENT)
    .with_for_update(skip_locked=True, key_share=True)
)
# The unique index refuses a slot that another run of the job occupies.
_CLAIM_SLOT = _CLAIM.values(slot=bindparam("free_slot"))
TAKEN = select(R.slot).where(
    R.job == bindparam("of_job"), R.slot.is_not(None), R.id != bindparam("run_id")
)
"""The slots of a job that other runs occupy."""
# Only a run that may still be claimed, so that a claim made meanwhile is not undone.
_PUT_OFF = (
    update(runs)
    .where(*_DUE, or_(_SENT, and_(_OWN, R.status == Status.WAITING)))
    .values(new(runs, "due_at", "check_at", "send_at"))
)


# A holder may also continue a run whose lease ran out during one of its own earlier calls.
_LAPSE = (
    update(runs)
    .where(
        R.id == bindparam("run_id"),
        _OWN,
        R.status == Status.RUNNING,
        R.check_at < bindparam("now"),
    )
    .values(status=Status.WAITING, slot=null())
    .returning(R.id, R.job, R.backend, R.attempt)
)


Asked = dict[str, Any]
"""The parameters of the statements here: who asks for which run, sent at which epoch, and when a
lease would begin and end."""


def ask(store: RunStore, delivery: Delivery, run_id: str = "", epoch: int = 0) -> Asked:
    """What this delivery asks for now."""
    now = store.clock()
    return {
        "run_id": run_id,
        "sent_epoch": epoch,
        "by": delivery.holder,
        "now": now,
        "lease_until": now + store.lease,
        "sent_at": delivery.sent_at,
    }


def claim_run(store: RunStore, run_id: str, epoch: int, delivery: Delivery) -> ClaimedRun | Outcome:
    """Claim the run if it is due, and free at the epoch that was sent or held by this holder
    already; otherwise say why not."""
    asked = ask(store, delivery, run_id, epoch)
    with store.db.autocommit() as connection:
        row = _claim(store, connection, asked, delivery)
    if isinstance(row, Outcome):
        return row
    return ClaimedRun(store, delivery, asked["now"], **row._asdict())


def _claim(
    store: RunStore, connection: Connection, asked: Asked, delivery: Delivery
) -> AnyRow | Outcome:
    caps, run_id = store.catalogue.caps, asked["run_id"]
    row = claim_uncapped(connection, asked, tuple(caps))
    if row is not None:
        return row
    state = read_state(connection, run_id)
    if _lapse(store, state, asked):
        row = claim_uncapped(connection, asked, tuple(caps))
        if row is not None:
            return row
    refusal = _refusal(state, asked)
    if refusal is not None or state is None or state.job not in caps:
        return refusal or Outcome(End.NOT_MINE)
    # A backend that calls again needs no wait here, and its calls must not be held up.
    again = delivery.calls_again
    wait = 0.0 if again else SLOT_WAIT_SECONDS
    row = claim_slot(connection, asked, state.job, caps[state.job], wait)
    if row is not None:
        return row
    waits = again or store.backends.waits_until_due(state.backend)
    due = put_off(connection, asked, store.check, waits=waits)
    if due is not None:
        return Outcome(End.NOT_DUE, due_at=due)
    return _refusal(read_state(connection, run_id), asked) or Outcome(End.NOT_MINE)


def _lapse(store: RunStore, state: AnyRow | None, asked: Asked) -> bool:
    """Whether an earlier call of the same holder never returned. Records that, if so."""
    if state is None or state.check_at is None or state.check_at >= asked["now"]:
        return False
    if state.status != Status.RUNNING or state.holder != asked["by"]:
        return False
    with store.db.begin() as connection:
        row = connection.execute(_LAPSE, asked).one_or_none()
        if row is not None:
            taken_over(connection, row, asked["now"])
    return row is not None


def claim_free(
    store: RunStore, sent: Sequence[tuple[str, int]], delivery: Delivery
) -> list[ClaimedRun]:
    """Claim in one go, and return in their order, those of many runs that are due and free and
    whose jobs have no cap. Each is named with the epoch that was sent."""
    ids: dict[int, list[str]] = defaultdict(list)
    for run_id, epoch in sent:
        ids[epoch].append(run_id)
    rows: dict[str, AnyRow] = {}
    claim = _claim_free(tuple(store.catalogue.caps))
    asked = ask(store, delivery)
    with store.db.autocommit() as connection:
        for epoch, run_ids in ids.items():
            bound = {**asked, "sent_epoch": epoch, "run_ids": run_ids}
            rows |= {row.run_id: row for row in connection.execute(claim, bound)}
    order = dict.fromkeys(run_id for run_id, _ in sent if run_id in rows)
    now = asked["now"]
    return [ClaimedRun(store, delivery, now, **rows[run_id]._asdict()) for run_id in order]


@cache
def _claim_free(capped: tuple[str, ...]) -> ReturningUpdate[*tuple[Any, ...]]:
    free = _FREE.where(*(R.job != job for job in capped))
    return update(runs).where(R.id.in_(free)).values(_TAKES).returning(*CLAIMED_COLUMNS)


def claim_uncapped(connection: Connection, asked: Asked, capped: tuple[str, ...]) -> AnyRow | None:
    """Claim the run. None where it cannot be claimed, or where its job is one of `capped`."""
    return connection.execute(_claim_unless(capped), asked).one_or_none()


@cache
def _claim_unless(jobs: tuple[str, ...]) -> ReturningUpdate[*tuple[Any, ...]]:
    return _CLAIM.where(*(R.job != job for job in jobs))


def claim_slot(
    connection: Connection, asked: Asked, job: str, cap: int, wait_seconds: float = 0.0
) -> AnyRow | None:
    """Claim the run with one of its job's `cap` slots. None where all are taken, or the run is.

    `connection` must be in autocommit mode, so that losing a slot to another undoes nothing else.
    """
    end = time.monotonic() + wait_seconds
    lost = 0
    while lost < _TRIES:
        others = {"of_job": job, "run_id": asked["run_id"]}
        taken = set(connection.execute(TAKEN, others).scalars())
        # Slots above the cap date from when it was higher. They count until they are free.
        if len(taken) >= cap:
            if time.monotonic() >= end:
                return None
            time.sleep(_LOOK_SECONDS)
            continue
        # At random, so that two who choose at the same moment rarely choose the same slot.
        free = random.choice([slot for slot in range(1, cap + 1) if slot not in taken])
        try:
            return connection.execute(_CLAIM_SLOT, {**asked, "free_slot": free}).one_or_none()
        except IntegrityError:
            lost += 1
    return None


def put_off(
    connection: Connection, asked: Asked, check: timedelta, *, waits: bool = False
) -> datetime | None:
    """Put off a run that got no slot by 1 to 3 s. Returns when it is due, or None where it can no
    longer be claimed.

    The relay sends it at that time, unless its backend waits for due times itself (`waits`).
    """
    wait = _OFF_MS + crc32(asked["run_id"].encode()) % (_SPREAD_MS + 1)
    due = asked["now"] + timedelta(milliseconds=wait)
    unsent = None if waits else due
    bound = {**asked, "new_due_at": due, "new_check_at": due + check, "new_send_at": unsent}
    return due if connection.execute(_PUT_OFF, bound).rowcount == 1 else None


def read_state(connection: Connection, run_id: str) -> AnyRow | None:
    """The columns that decide whether the run may be claimed."""
    columns = (R.job, R.backend, R.status, R.epoch, R.holder, R.due_at, R.check_at)
    return connection.execute(select(*columns).where(R.id == run_id)).one_or_none()


def _refusal(row: AnyRow | None, asked: Asked) -> Outcome | None:
    """Why the run cannot be claimed. None where nothing, or only a missing slot, is in the way."""
    if row is None or row.check_at is None:
        return Outcome(End.NOT_MINE)
    if row.holder == asked["by"]:
        if row.status == Status.RUNNING and row.check_at >= asked["now"]:
            return Outcome(End.BUSY, due_at=row.check_at)
    elif row.holder is not None or row.epoch != asked["sent_epoch"]:
        return Outcome(End.NOT_MINE)
    return Outcome(End.NOT_DUE, due_at=row.due_at) if row.due_at > asked["now"] else None

"""The relay: sends what was never sent, takes over what was left, finds what a queue has lost."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, case, func, null, select, update

from app.switchyard.context import AppContext
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.models import VOID, AnyRow, Status, new, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import SENT, RunStore
from flags import Reason

log = logging.getLogger(__name__)

BATCH = 2000
INTERVAL_SECONDS = 1.0
TRUSTED = timedelta(minutes=10)
"""How long a service's word that it still has a run is taken, from the run's due time on; twice as
long after each resend, so that a long backlog there is not sent again and again."""
_CALM_LOSSES = 3
_LONGEST_PAUSE = timedelta(minutes=1)

# One that somebody has locked is about to change, and is left for the next look: to wait for it
# would be to wait, with everybody else's runs, for a process that is frozen before its commit.
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
        **VOID,
        **new(runs, "due_at", "check_at"),
        status=Status.WAITING,
        slot=null(),
        losses=R.losses + 1,
        # A move that was asked for happens here: nobody has the run any more.
        backend=func.coalesce(R.move_to, R.backend),
        reason=case((R.move_to.is_not(None), Reason.HANDED_OVER.value), else_=R.reason),
        move_to=null(),
    )
)
# Under the same epoch while nobody holds the run, so that the first message still counts if it
# comes after all; under a new one where a holder was to come back and did not.
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
        **new(runs, "check_at"),
    )
)


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    sent: int = 0
    """Runs sent (again): never sent, due now, or lost by their queue."""
    taken_over: int = 0
    queued: int = 0
    """Runs their queue still has."""
    unreachable: int = 0
    """Runs whose backend could not be reached."""


def sweep(store: RunStore, limit: int = BATCH) -> Swept:
    """Look once at the runs whose check is due, oldest first. Safe beside other relays."""
    swept = Swept()
    now = store.clock()
    columns = (*SENT, R.status, R.holder, R.losses, R.check_at)
    due = select(*columns).where(R.check_at <= now).order_by(R.check_at).limit(limit)
    taken: list[str] = []
    unclaimed: dict[str, list[AnyRow]] = defaultdict(list)
    with store.db.autocommit() as connection:
        for row in connection.execute(due).all():
            if row.status != Status.RUNNING:
                unclaimed[row.backend].append(row)
            elif take_over(connection, row, now, store.check):
                taken.append(row.id)
    swept.taken_over = len(taken)
    if taken:
        log.warning("runs taken over: their lease ran out", extra={"runs": len(taken)})
        store.send(taken)
    for backend, rows in unclaimed.items():
        _see_to(store, backend, rows, now, swept)
    return swept


def take_over(connection: Connection, row: AnyRow, now: datetime, check: timedelta) -> bool:
    """Take the run from a holder whose lease has run out, if it still has; whether it was."""
    pause = timedelta(0)
    if row.losses >= _CALM_LOSSES:
        # Whoever claims it dies again and again: slow down, but never give a run up for that.
        pause = min(_LONGEST_PAUSE, timedelta(seconds=2.0 ** (row.losses - _CALM_LOSSES)))
    bound = {
        "run_id": row.id,
        "seen_epoch": row.epoch,
        "now": now,
        # It was due: the time of who takes over, whose clock may be ahead, must not keep it back.
        "new_due_at": now + pause if pause else row.due_at,
        "new_check_at": now + (pause or check),
    }
    return connection.execute(TAKE_OVER, bound).rowcount == 1


def _see_to(store: RunStore, backend: str, rows: list[AnyRow], now: datetime, swept: Swept) -> None:
    """Runs that should have been claimed by now: still queued, or to be sent again?"""
    messages = {message.run_id: message for message in store.messages(rows)}
    sure = True
    try:
        queued = store.backends[backend].queued(list(messages.values()))
    except BackendUnavailable as failure:
        log.warning("backend cannot be asked", extra={"backend": backend, "reason": str(failure)})
        # What a service was never sent, or so long ago that its word would not do, it is sent all
        # the same: that it takes events and answers no questions may last.
        sends_anyway = store.backends.waits_until_due(backend)
        queued = {run for run, m in messages.items() if m.ref is not None or not sends_anyway}
        sure = False
    lost = {
        row.id: row
        for row in rows
        if row.id in messages and not (row.id in queued and _believed(row, now))
    }
    look_again(store, [row.id for row in rows if row.id not in lost], now)
    again: list[str] = []
    with store.db.autocommit() as connection:
        for run_id, row in lost.items():
            bound = {"run_id": run_id, "seen_epoch": row.epoch, "seen_check_at": row.check_at}
            bound["new_check_at"] = now + store.check
            if connection.execute(RESEND, bound).rowcount == 1:
                again.append(run_id)
    swept.sent += len(again)
    if sure:
        swept.queued += len(messages) - len(lost)
    else:
        swept.unreachable += len(messages) - len(lost)
    store.send(again)


def _believed(row: AnyRow, now: datetime) -> bool:
    """A list in Redis says what it holds; a service that only gave a reference may be mistaken."""
    patience: timedelta = TRUSTED * 2 ** min(row.sends, 10)
    return row.sent_ref is None or now < row.due_at + patience


def look_again(store: RunStore, run_ids: list[str], now: datetime) -> None:
    """Put off the next look at runs that are where they should be; one that somebody has locked is
    about to change, and waiting for a drain, which locks many, might be to wait in a circle."""
    if not run_ids:
        return
    chosen = (R.check_at <= now, R.status != Status.RUNNING)
    free = select(R.id).where(R.id.in_(run_ids), *chosen)
    free = free.with_for_update(skip_locked=True, key_share=True)
    with store.db.autocommit() as connection:
        put_off = update(runs).where(*chosen, R.id.in_(free))
        connection.execute(put_off.values(check_at=now + store.check))


def run_forever(
    store: RunStore,
    stop: threading.Event,
    interval_seconds: float = INTERVAL_SECONDS,
    context: AppContext = nullcontext,
) -> None:
    """Sweep until `stop` is set, each time in a `context` of its own; what goes wrong in one sweep
    is logged and tried again."""
    while not stop.is_set():
        try:
            with context():
                swept = sweep(store)
        except Exception:
            log.exception("sweep failed")
            swept = Swept()
        if swept.sent + swept.taken_over + swept.queued < BATCH:
            stop.wait(interval_seconds)

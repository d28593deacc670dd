"""The relay: resends what was never sent, takes over what was left, finds what a queue lost."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from app.switchyard.errors import BackendUnavailable
from app.switchyard.loading import AppContext
from app.switchyard.runs import ledger
from app.switchyard.runs.backend import Message
from app.switchyard.runs.ledger import AnyRow
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.statements import RESEND, TAKE_OVER, next_check
from app.switchyard.runs.store import RunStore

log = logging.getLogger(__name__)

BATCH = 2000
INTERVAL_SECONDS = 1.0
TRUSTED = timedelta(minutes=10)
"""How long a service's word that it still has a run is taken, from the run's due time on; twice as
long after each sending, so that a long backlog there is not sent again and again."""
_CALM_LOSSES = 3
_LONGEST_PAUSE = timedelta(minutes=1)


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    sent: int = 0
    """Runs sent (again): never sent, due now, or lost by their queue."""
    taken_over: int = 0
    queued: int = 0
    """Runs their queue still has."""
    unreachable: int = 0
    """Runs whose backend could not be asked or sent to."""


def sweep(store: RunStore, limit: int = BATCH) -> Swept:
    """Look once at the runs whose check is due, oldest first. Safe beside other relays."""
    swept = Swept()
    now = store.clock()
    with store.db.autocommit() as connection:
        rows = _due(connection, now, limit)
        left = [row for row in rows if row.status == Status.RUNNING]
        unclaimed = [row for row in rows if row.status != Status.RUNNING]
        taken = [row.id for row in left if _take_over(connection, row, now, store.check)]
    swept.taken_over = len(taken)
    if taken:
        log.warning("runs taken over: their lease ran out", extra={"runs": len(taken)})
        store.send(taken)
    groups: dict[str, list[AnyRow]] = defaultdict(list)
    for row in unclaimed:
        groups[row.backend].append(row)
    for backend, group in groups.items():
        _see_to(store, backend, group, now, swept)
    return swept


def _due(connection: Connection, now: datetime, limit: int) -> list[AnyRow]:
    columns = (
        *(R.id, R.job, R.backend, R.payload, R.epoch, R.sends, R.due_at, R.sent_ref),
        *(R.status, R.holder, R.losses, R.check_at),
    )
    chosen = select(*columns).where(R.check_at <= now).order_by(R.check_at).limit(limit)
    return list(connection.execute(chosen))


def _take_over(connection: Connection, row: AnyRow, now: datetime, check: timedelta) -> bool:
    pause = timedelta(0)
    if row.losses >= _CALM_LOSSES:
        # Whoever holds it dies again and again: slow down, but never give a run up for that.
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
    asked: list[tuple[AnyRow, Message]] = []
    for row in rows:
        spec = store.spec_of(row.job)
        if spec is not None:
            asked.append((row, ledger.as_message(row, spec)))
    sure = True
    try:
        held = store.backends[backend].queued([message for _, message in asked])
    except BackendUnavailable as failure:
        log.warning("backend cannot be asked", extra={"backend": backend, "reason": str(failure)})
        if not store.backends.waits_until_due(backend):
            swept.unreachable += len(asked)
            _look_again(store, [row.id for row in rows], now)
            return
        # What a service was never sent, or so long ago that its word would not do, it is sent all
        # the same: that it takes events and answers no questions may last.
        held, sure = {row.id for row, _ in asked if row.sent_ref is not None}, False
    unknown = {row.id for row in rows} - {row.id for row, _ in asked}
    stays = [row.id for row, _ in asked if row.id in held and _believed(row, now)]
    lost = [row for row, _ in asked if row.id not in stays]
    _look_again(store, [*stays, *unknown], now)
    again: list[str] = []
    with store.db.autocommit() as connection:
        for row in lost:
            bound = {
                "run_id": row.id,
                "seen_epoch": row.epoch,
                "seen_check_at": row.check_at,
                "new_check_at": now + store.check,
            }
            if connection.execute(RESEND, bound).rowcount == 1:
                again.append(row.id)
    if sure:
        swept.queued += len(stays)
    else:
        swept.unreachable += len(stays)
    swept.sent += len(again)
    if again:
        store.send(again)


def _believed(row: AnyRow, now: datetime) -> bool:
    """A list in Redis says what it holds; a service that only gave a reference may be mistaken."""
    patience: timedelta = TRUSTED * 2 ** min(row.sends, 10)
    return row.sent_ref is None or now < row.due_at + patience


def _look_again(store: RunStore, run_ids: list[str], now: datetime) -> None:
    if run_ids:
        with store.db.autocommit() as connection:
            connection.execute(next_check(run_ids, now, now + store.check))


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

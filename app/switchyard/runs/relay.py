"""The relay: sends runs that are due and unsent, takes over runs whose lease ran out, and finds
runs that a backend has lost. Each of the three has its own pace, and none waits for another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import bindparam, case, func, null, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.context import AppContext
from app.switchyard.errors import BackendUnavailable
from app.switchyard.logs import logger_of
from app.switchyard.runs import record
from app.switchyard.runs.models import VOID, AnyRow, Status, new, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import RunStore, by_backend, chunks
from app.switchyard.runs.suspicion import SILENT, Suspicion
from app.switchyard.runs.tallies import RESENDS, Tally, add
from app.switchyard.text import reason
from flags import Reason

log = logger_of(__name__)

BATCH = 2000
"""How many runs a look deals with."""
INTERVAL_SECONDS = 1.0
LAPSED = (R.id, R.job, R.epoch, R.due_at, R.losses, R.attempt, R.backend, R.move_to)
"""The columns that a takeover needs."""
DUE = (R.id, R.job, R.backend, R.epoch, R.sent_ref, R.check_at)
"""The columns that a resend needs. A look reads no payloads, which may be large."""
_CALM_LOSSES = 3
_LONGEST_PAUSE = timedelta(minutes=1)
_FREE = R.status.in_([Status.PENDING, Status.WAITING])

# A locked run is about to change and is left for the next look. Waiting for it could mean waiting,
# with everybody else's runs, for a process that froze before its commit.
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
        **new(runs, "due_at", "check_at", "send_at"),
        status=Status.WAITING,
        slot=null(),
        losses=R.losses + 1,
        idle_since=bindparam("now"),
        # A move that was asked for happens now, since nobody holds the run any more.
        backend=func.coalesce(R.move_to, R.backend),
        reason=case((R.move_to.is_not(None), Reason.HANDED_OVER.value), else_=R.reason),
        move_to=null(),
    )
)
# The epoch stays while nobody holds the run, so that the first message still counts if it arrives
# after all. It rises where a holder should have come back and did not. A run whose reference came
# between the look and this was sent just now: a resend of it would have a new id, and start again.
RESEND = (
    update(runs)
    .where(
        _UNLOCKED,
        R.epoch == bindparam("seen_epoch"),
        R.check_at == bindparam("seen_check_at"),
        R.sent_ref.is_not_distinct_from(bindparam("seen_ref")),
        _FREE,
    )
    .values(
        epoch=case((R.holder.is_(None), R.epoch), else_=R.epoch + 1),
        sends=case((R.sent_ref.is_(None), R.sends), else_=R.sends + 1),
        holder=null(),
        sent_ref=null(),
        send_at=null(),
        **new(runs, "check_at", "idle_since"),
    )
)


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    sent: int = 0
    """Runs that were sent: for the first time, now that they are due, or again after a loss."""
    taken_over: int = 0
    queued: int = 0
    """Silent runs that are still queued, as far as anybody can tell."""
    unreachable: int = 0
    """Runs whose backend could not be reached."""

    @property
    def seen(self) -> int:
        """How many runs it looked at."""
        return self.sent + self.taken_over + self.queued + self.unreachable


def sweep(store: RunStore) -> Swept:
    """Do each of the three once. It is safe to run beside other relays."""
    swept = Swept()
    send_due(store, swept)
    take_over_lapsed(store, swept)
    look_at_silent(store, Suspicion(store), swept)
    return swept


def send_due(store: RunStore, swept: Swept) -> None:
    """Send the unsent runs that are due, those that have been due longest first."""
    now = store.clock()
    due = select(*DUE).where(R.send_at <= now, _FREE)
    rows = store.db.rows(due.order_by(R.send_at).limit(BATCH))
    for backend, there in by_backend(rows).items():
        try:
            store.backends[backend].ping()
        except BackendUnavailable as failure:
            _warn("runs are due", backend, len(there), failure)
            swept.unreachable += len(there)
            look_again(store, [row.id for row in there], now)
            continue
        swept.sent += _resend(store, ((row, store.check) for row in there), now)


def take_over_lapsed(store: RunStore, swept: Swept) -> None:
    """Take over the runs whose leases ran out, and send them."""
    now = store.clock()
    lapsed = select(*LAPSED).where(R.check_at <= now, R.status == Status.RUNNING)
    rows = store.db.rows(lapsed.order_by(R.check_at).limit(BATCH))
    taken = [row.id for row in rows if take_over(store, row, now)]
    if taken:
        swept.taken_over += len(taken)
        log.warning("runs taken over: their lease ran out", extra={"runs": len(taken)})
        store.send(taken)


def take_over(store: RunStore, row: AnyRow, now: datetime) -> bool:
    """Take the run over if its lease has still run out. Whether it was taken over.

    `row` has the columns of LAPSED.
    """
    pause = timedelta(0)
    if row.losses >= _CALM_LOSSES:
        # Its holders keep dying. Slow down, but never give the run up.
        pause = min(_LONGEST_PAUSE, timedelta(seconds=2.0 ** (row.losses - _CALM_LOSSES)))
    # It stays due when it was: this process's clock, which may be ahead, must not delay it.
    due = now + pause if pause else row.due_at
    bound = {
        "run_id": row.id,
        "seen_epoch": row.epoch,
        "now": now,
        "new_due_at": due,
        "new_check_at": now + pause + store.check,
        "new_send_at": store.unsent(row.move_to or row.backend, due, now),
    }
    with store.db.begin() as connection:
        if connection.execute(TAKE_OVER, bound).rowcount != 1:
            return False
        record.taken_over(connection, row, now)
        if row.move_to is not None:
            before = (row.id, row.job, row.backend, row.epoch)
            record.handed_over(connection, [before], row.move_to, now)
    return True


def look_at_silent(store: RunStore, suspicion: Suspicion, swept: Swept) -> None:
    """Look at the runs that were sent and never claimed, and resend those that seem lost."""
    now = store.clock()
    silent = select(*SILENT).where(R.check_at <= now, _FREE, R.send_at.is_(None))
    rows = store.db.rows(silent.order_by(R.check_at).limit(BATCH))
    for backend, there in by_backend(rows).items():
        try:
            again, later = suspicion.of(backend, there, now)
        except BackendUnavailable as failure:
            _warn("runs are silent", backend, len(there), failure)
            swept.unreachable += len(there)
            look_again(store, [row.id for row in there], now)
            continue
        gaps = {row.id: gap for row, gap in again}
        kept = [row.id for row in there if row.id not in gaps and row.id not in later]
        look_again(store, kept, now)
        swept.queued += len(kept)
        swept.sent += _resend(store, again, now, lost=True)


def _resend(
    store: RunStore,
    rows: Iterable[tuple[AnyRow, timedelta]],
    now: datetime,
    *,
    lost: bool = False,
) -> int:
    """Resend these rows of DUE or SILENT, each to be looked at again after its gap. Returns how
    many were sent, and tallies them where they were `lost`."""
    again: list[str] = []
    resends: Counter[Tally] = Counter()
    with store.db.autocommit() as connection:
        for row, gap in rows:
            bound = {"run_id": row.id, "seen_epoch": row.epoch, "seen_check_at": row.check_at}
            bound |= {"seen_ref": row.sent_ref, "new_check_at": now + gap, "new_idle_since": now}
            if connection.execute(RESEND, bound).rowcount == 1:
                again.append(row.id)
                resends[RESENDS, row.job, row.backend, ""] += 1
    store.send(again)
    if lost:  # last, so that the runs are sent even where the tally fails
        with store.db.autocommit() as connection:
            add(connection, resends)
    return len(again)


def _warn(what: str, backend: str, count: int, failure: BackendUnavailable) -> None:
    extra = {"backend": backend, "runs": count, "reason": str(failure)}
    log.warning("%s, and the backend is unavailable", what, extra=extra)


def look_again(store: RunStore, run_ids: list[str], now: datetime) -> None:
    """Put off the next look at runs that are still queued.

    Locked runs are skipped: they are about to change, and waiting for a drain, which locks many,
    could deadlock.
    """
    chosen = (R.check_at <= now, R.status != Status.RUNNING)
    with store.db.autocommit() as connection:
        for some in chunks(run_ids):
            free = select(R.id).where(R.id.in_(some), *chosen)
            free = free.with_for_update(skip_locked=True, key_share=True)
            put_off = update(runs).where(*chosen, R.id.in_(free))
            connection.execute(put_off.values(check_at=now + store.check))


def run_forever(
    store: RunStore,
    stop: threading.Event,
    interval_seconds: float = INTERVAL_SECONDS,
    context: AppContext = nullcontext,
    looked: Callable[[Swept], None] = lambda _swept: None,
) -> None:
    """Do the three, each in its own thread, until `stop` is set. `looked` is called with the result
    of each look."""
    looks: dict[str, tuple[Callable[[Swept], None], float]] = {
        "due": (partial(send_due, store), interval_seconds / 2),  # often, so that no run is late
        "lapsed": (partial(take_over_lapsed, store), interval_seconds),
        "silent": (partial(look_at_silent, store, Suspicion(store)), interval_seconds),
    }
    threads = [
        threading.Thread(
            target=repeat,
            args=(f"relay ({name})", partial(_more, look, looked), pause, stop, context),
            name=f"relay-{name}",
            daemon=True,
        )
        for name, (look, pause) in looks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _more(look: Callable[[Swept], None], looked: Callable[[Swept], None]) -> bool:
    """Look once. Whether there is more to deal with right away."""
    swept = Swept()
    look(swept)
    looked(swept)
    return swept.seen - swept.unreachable >= BATCH


def repeat(
    name: str,
    look: Callable[[], object],
    pause: float,
    stop: threading.Event,
    context: AppContext,
) -> None:
    """Look until `stop` is set, each time in a new `context`, with `pause` seconds between two
    looks, or none after a look that returned True. An error is logged and the look tried again."""
    while not stop.is_set():
        more: object = False
        try:
            with context():
                more = look()
        except SQLAlchemyError as failure:
            log.warning("the %s could not look", name, extra={"reason": reason(failure)})
        except Exception:
            log.exception("the %s could not look", name)
        if more is not True:
            stop.wait(pause)

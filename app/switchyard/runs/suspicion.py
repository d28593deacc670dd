"""Decides which silent runs to resend: runs that were sent and are due, and that nobody claims.

A list in Redis shows what it holds. A service does not: whether it is behind, is waiting out a gap
of its own after a call it could not make, or has lost its queue, it answers the same. A resent run
is still done only once, but every message is billed and lengthens a backlog. So a resend needs a
sign: a message that was sent later has been delivered, so this one was passed over. Without such a
sign the job's oldest run is resent as a probe, whose delivery is the sign for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median_high

from sqlalchemy import (
    Connection,
    bindparam,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from app.switchyard.logs import logger_of
from app.switchyard.runs.models import IS_REFUSED, AnyRow, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import SENT, RunStore

log = logger_of(__name__)

_BARE = [column for column in SENT if column is not R.payload]
SILENT = (
    *(*_BARE, literal("").label("payload"), R.check_at, R.idle_since),
    func.coalesce(IS_REFUSED, false()).label("refused"),
)
"""The columns that Suspicion needs. A backend finds its messages without their payloads, which may
be large."""
MOST = 200
"""How many suspected runs of one backend a look resends at most."""
_RECENT = 50
_FURTHEST = timedelta(minutes=5)
_DOUBLINGS = 6

_DELIVERED = (R.message_at, R.started_at, R.status)
# Spelled out, so that SQLite can use the partial index of ended runs.
ENDED = (
    select(*_DELIVERED, R.ended_at)
    .where(
        literal_column("status IN ('succeeded', 'failed')"),
        R.job == bindparam("of_job"),
        R.backend == bindparam("on"),
    )
    .order_by(R.ended_at.desc())
    .limit(_RECENT)
)
# The job is compared as an expression: otherwise SQLite would read all runs of the job.
ACTIVE = (
    select(*_DELIVERED)
    .where(
        R.check_at > bindparam("now"),
        R.check_at <= bindparam("soon"),
        R.job.concat("") == bindparam("of_job"),
        R.backend == bindparam("on"),
        or_(R.status == Status.RUNNING, R.holder.is_not(None)),
    )
    .order_by(R.check_at.desc())
    .limit(_RECENT)
)

Again = tuple[AnyRow, timedelta]
"""A run to resend, and how long to wait before looking at it again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a job's runs on one backend."""

    delivered: datetime | None
    """When the newest message that has been delivered was sent."""
    wait: timedelta
    """How long messages typically waited before they were delivered."""
    active: bool
    """Whether any of them is making progress."""
    running: int


@dataclass(slots=True)
class _Probe:
    next_at: datetime
    gap: timedelta
    seen_at: datetime


class Suspicion:
    """Remembers its latest probes. A new Suspicion works just as well without them."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._probes: dict[tuple[str, str], _Probe] = {}

    def of(
        self, backend: str, rows: Sequence[AnyRow], now: datetime
    ) -> tuple[list[Again], set[str]]:
        """The silent rows to resend, and the ids of those beyond MOST, which are to be looked at
        again right away. Raises BackendUnavailable."""
        known = [row for row in rows if self._store.spec_of(row.job) is not None]
        queued = self._store.backends[backend].queued(self._store.messages(known))
        if queued is not None:
            return [(row, self._store.check) for row in known if row.id not in queued], set()
        # A message that was never acknowledged is resent under its id, and starts nothing twice.
        again = [(row, self._unsent_gap(row, now)) for row in known if row.sent_ref is None]
        suspects: list[Again] = []
        by_job: dict[str, list[AnyRow]] = defaultdict(list)
        for row in known:
            if row.sent_ref is not None and self._idle(row) + self._store.check <= now:
                by_job[row.job].append(row)
        with self._store.db.autocommit() as connection:
            for job, silent in by_job.items():
                progress = self.progress(connection, backend, job, now)
                silent.sort(key=self._idle)
                suspects += self._passed_over(silent, progress) or self._probed(
                    backend, job, silent[0], progress, now
                )
        if suspects:
            log.warning(
                "runs sent again: nobody had claimed them",
                extra={"backend": backend, "runs": min(len(suspects), MOST)},
            )
        return again + suspects[:MOST], {row.id for row, _ in suspects[MOST:]}

    def progress(self, connection: Connection, backend: str, job: str, now: datetime) -> Progress:
        """How the job is getting on at this backend."""
        store = self._store
        bound = {"of_job": job, "on": backend}
        ended = connection.execute(ENDED, bound).all()
        soon = now + max(store.lease, store.check)
        active = connection.execute(ACTIVE, {**bound, "now": now, "soon": soon}).all()
        came = [row for row in (*ended, *active) if row.message_at is not None]
        waits = [row.started_at - row.message_at for row in came]
        first = [wait for wait in waits if wait >= timedelta(0)] or [timedelta(0)]
        lately = any(row.ended_at > now - store.check for row in ended)
        return Progress(
            delivered=max((row.message_at for row in came), default=None),
            wait=median_high(first),
            active=bool(active) or lately,
            running=sum(row.status == Status.RUNNING for row in active),
        )

    def _idle(self, row: AnyRow) -> datetime:
        since: datetime = row.due_at
        return since if row.idle_since is None else max(since, row.idle_since)

    def _passed_over(self, silent: Iterable[AnyRow], progress: Progress) -> list[Again]:
        if progress.delivered is None:
            return []
        # Messages sent at the same time may be delivered in any order, the more so in a backlog.
        before = progress.delivered - self._store.check / 2 - progress.wait
        return [(row, self._gap(row, progress)) for row in silent if self._idle(row) < before]

    def _probed(
        self, backend: str, job: str, oldest: AnyRow, progress: Progress, now: datetime
    ) -> list[Again]:
        cap = self._store.catalogue[job].concurrency
        if cap is not None and progress.running >= cap:
            return []
        check = self._store.check
        probe = self._probes.get((backend, job))
        if probe is None or probe.seen_at < now - 3 * check:
            probe = self._probes[backend, job] = _Probe(now, check, now)
        probe.seen_at = now
        if now < probe.next_at:
            return []
        # A backlog that moves is probed less and less often.
        probe.gap = min(2 * probe.gap, 12 * check) if progress.active else 2 * check
        probe.next_at = now + probe.gap
        return [(oldest, self._gap(oldest, progress))]

    def _unsent_gap(self, row: AnyRow, now: datetime) -> timedelta:
        check = self._store.check
        # Twice as long as the last one, since it counts from when the run was due.
        return min(_FURTHEST, max(check, now - row.due_at)) if row.refused else check

    def _gap(self, row: AnyRow, progress: Progress) -> timedelta:
        furthest = _FURTHEST if progress.active else 3 * self._store.check
        gap: timedelta = self._store.check * 2 ** min(row.sends, _DOUBLINGS)
        return min(gap, furthest)

"""Clocks only propose: a tick is a run keyed by job and occurrence, so two clocks do no harm. The
ledger records how far each job's schedule was proposed, so that missed ticks are made up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

from sqlalchemy import String, Table, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.clock import iso
from app.switchyard.context import Payload
from app.switchyard.cutover.status import LATE
from app.switchyard.db import INSERT, Base, Database
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, SwitchyardError
from app.switchyard.job import JobSpec, Missed
from app.switchyard.logs import logger_of
from app.switchyard.runs.store import Run
from app.switchyard.runtime import Runtime, current
from app.switchyard.text import reason

log = logger_of(__name__)

INTERVAL_SECONDS = 1.0
OLDEST = timedelta(days=35)
"""Missed ticks older than this are not made up. They are left to a human."""
MOST = 500
"""How many missed ticks of a job are made up at once, the latest: a wrong clock floods nothing."""
BEAT = timedelta(seconds=30)
"""How often a mark advances while nothing is due."""
JUMP_SECONDS = 60.0
LONG_GAP = timedelta(hours=1)
STEADY_SECONDS = 20.0
"""A clock that jumped, or that starts after a long gap, is trusted once it has run steadily for
this long: a machine's clock is often wrong for a moment after its start."""
AHEAD = timedelta(minutes=2)
"""How far ahead of this clock a mark may be. Beyond that, some clock was wrong."""
EARLY = timedelta(hours=1)
"""How long before its time another clock's tick may come."""
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_LONGEST_LEAP_SECONDS = 86_400.0


class ClockMark(Base):
    """Every occurrence of the job up to `seen_until` was proposed, or was skipped on purpose."""

    __tablename__ = "switchyard_clock_marks"

    job: Mapped[str] = mapped_column(String(100), primary_key=True)
    seen_until: Mapped[datetime]


M = ClockMark


def read_marks(db: Database) -> dict[str, datetime]:
    """Each job's mark, in UTC."""
    return {row.job: row.seen_until for row in db.rows(select(M.job, M.seen_until))}


def missed(
    spec: JobSpec, marks: Mapping[str, datetime], now: datetime, most: int
) -> list[datetime]:
    """The first `most` ticks of the job, up to a minute ago, that no clock has proposed."""
    since = max(marks.get(spec.name, now), now - OLDEST)
    return spec.occurrences(since, now - LATE, most)


def begin_marks(db: Database, jobs: Collection[str], now: datetime) -> None:
    """Give each of these jobs that has no mark its first one: its schedule counts from `now` on."""
    rows = [{"job": job, "seen_until": now} for job in jobs]
    if rows:
        with db.autocommit() as connection:
            insert = INSERT[connection.dialect.name](cast(Table, M.__table__))
            connection.execute(insert.on_conflict_do_nothing(index_elements=["job"]), rows)


def advance_marks(db: Database, jobs: Collection[str], until: datetime) -> None:
    """Advance these marks to `until`. Those that are later stay."""
    further = update(M).where(M.job.in_(jobs), M.seen_until < until).values(seen_until=until)
    if jobs:
        with db.autocommit() as connection:
            connection.execute(further)


def tick(spec: JobSpec, occurrence: datetime) -> Run:
    """Propose one scheduled occurrence, from any clock. Proposing it twice creates one run.

    Missed ticks of every job are made up as well.
    """
    run = _propose(spec, occurrence)
    runtime = current()
    try:
        catch_up(runtime, min(occurrence, runtime.store.clock()))  # that clock may be ahead
    except SQLAlchemyError as failure:
        log.warning("could not look for missed ticks", extra={"reason": reason(failure)})
    return run


def occurrence_of(spec: JobSpec, fired: datetime | None) -> datetime:
    """The scheduled time, UTC, of another clock's tick that fired at `fired`, however long ago.

    Raises BadInput for a time that no right clock has: before 2000, or more than EARLY ahead.
    """
    now = current().store.clock()
    if fired is None or not LONG_AGO <= fired <= now + EARLY:
        raise BadInput(f"a tick of {fired or 'no time'} cannot come at {now}")
    return spec.occurrence_at(fired)


def proposal(spec: JobSpec, occurrence: datetime) -> tuple[Payload | None, str | None]:
    """The payload and key of an occurrence's run. A key derived from the payload is None here."""
    payload = None if spec.tick is None else spec.tick(occurrence)
    return payload, None if spec.key is not None else f"tick:{iso(occurrence)}"


def _propose(spec: JobSpec, occurrence: datetime) -> Run:
    payload, key = proposal(spec, occurrence)
    return dispatch(spec.name, payload, key=key)


def catch_up(runtime: Runtime, until: datetime) -> bool:
    """Propose every tick up to `until` that no clock has proposed. A job without a mark begins now.
    Returns False where a tick must be tried again."""
    marks = read_marks(runtime.db)
    scheduled = [spec for spec in runtime.catalogue.values() if spec.schedule is not None]
    new = [spec.name for spec in scheduled if spec.name not in marks]
    begin_marks(runtime.db, new, max(until, runtime.store.clock()))
    complete, seen = True, []
    for spec in scheduled:
        after = marks.get(spec.name, until)
        if until <= after:
            continue
        due = _due(spec, after, until)
        if [at for at in due if not _propose_late(spec, at)]:
            complete = False
        elif due or until - after >= BEAT:
            seen.append(spec.name)
    advance_marks(runtime.db, seen, until)
    return complete


def _due(spec: JobSpec, after: datetime, until: datetime) -> list[datetime]:
    """The occurrences in (after, until] that must be proposed."""
    since = max(after, until - OLDEST)
    due = spec.occurrences(since, until)
    if spec.missed == Missed.LAST:
        if len(due) > 1:
            extra = {"job": spec.name, "ticks": len(due) - 1}
            log.info("missed ticks: only the last one is made up", extra=extra)
        return due[-1:]
    if len(due) > MOST or spec.occurrence_after(after) <= since:
        extra = {"job": spec.name, "after": iso(after), "until": iso(until)}
        log.error("missed ticks: the oldest are not made up", extra=extra)
    return due[-MOST:]


def _propose_late(spec: JobSpec, occurrence: datetime) -> bool:
    """Propose a tick. Returns False where it must be tried again."""
    try:
        run = _propose(spec, occurrence)
    except BadInput as misfit:
        # Another try cannot help, and must not hold up the ticks of other jobs.
        log.error("tick refused: %s", misfit, extra={"job": spec.name})
        return True
    except (SwitchyardError, SQLAlchemyError) as failure:
        why = {"job": spec.name, "reason": reason(failure)}
        log.warning("tick not recorded; it is tried again", extra=why)
        return False
    if run.created:
        log.info("tick", extra={"job": spec.name, "run": run.id, "at": iso(occurrence)})
    return True


class Ticker:
    """One clock process. It looks once a round, and does not trust its machine's time blindly."""

    def __init__(self, runtime: Runtime, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._monotonic = monotonic
        self._offset: float | None = None
        self._ran = 0.0
        self._leapt: float | None = None
        """The monotonic time of the last round before the clock jumped forward."""
        self._trusted_from = 0.0
        self._seen: datetime | None = None

    @property
    def doing(self) -> str:
        """What this process is doing, in words."""
        if self._seen is None:
            return "waits until its machine's time is steady"
        return f"has proposed the ticks due by {iso(self._seen)}"

    def round(self) -> None:
        """Propose the ticks that are due now, if this clock can be trusted."""
        now, ran = self._runtime.store.clock(), self._monotonic()
        self._watch(now, ran)
        if ran < self._trusted_from:
            return
        self._correct(now, ran)
        if catch_up(self._runtime, now):
            self._seen = now

    def _watch(self, now: datetime, ran: float) -> None:
        offset = now.timestamp() - ran
        if self._offset is None:
            latest = max(read_marks(self._runtime.db).values(), default=now)
            doubtful = now - latest > LONG_GAP
        else:
            jump = offset - self._offset
            doubtful = abs(jump) > JUMP_SECONDS
            if doubtful:
                log.warning("the clock jumped", extra={"seconds": round(jump)})
                self._leapt = self._ran if jump > 0 else self._leapt
        if doubtful:
            self._trusted_from = ran + STEADY_SECONDS
        self._offset, self._ran = offset, ran

    def _correct(self, now: datetime, ran: float) -> None:
        """Move marks back that a fast clock set too late: they would hide every tick until then.

        They return to a time that this process knows was right. Proposing a tick again is harmless.
        """
        to = now if self._seen is None else min(now, self._seen)
        if self._leapt is not None:
            to = now - timedelta(seconds=min(ran - self._leapt, _LONGEST_LEAP_SECONDS))
        back = update(M).where(M.seen_until > now + AHEAD).values(seen_until=to)
        with self._runtime.db.autocommit() as connection:
            wrong = connection.execute(back).rowcount
        if wrong:
            log.error("a clock was ahead; its marks go back", extra={"back_to": iso(to)})
            self._leapt = None

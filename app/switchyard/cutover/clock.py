"""Clocks only propose: a tick is a run keyed by job and occurrence, so two clocks are harmless. How
far each job's schedule was proposed is on record, so that what none proposed is made up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import String, Table, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.clock import iso
from app.switchyard.context import Payload
from app.switchyard.db import INSERT, Base, Database
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, SwitchyardError
from app.switchyard.job import JobSpec, Missed
from app.switchyard.runs.create import Run
from app.switchyard.runtime import Runtime, current
from app.switchyard.text import reason

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
OLDEST = timedelta(days=35)
"""How old a tick may be to be made up; older ones are logged and left to a human."""
MOST = 500
"""Ticks of one job made up at once, the latest ones: a clock gone wrong must flood nothing."""
BEAT = timedelta(seconds=30)
"""How often a mark moves where nothing is due."""
JUMP_SECONDS = 60.0
LONG_GAP = timedelta(hours=1)
STEADY_SECONDS = 20.0
"""A clock that jumped, or starts after a long gap, is believed once it has gone on evenly for so
long: a machine's clock is often wrong for a moment after its start."""
AHEAD = timedelta(minutes=2)
"""How far ahead of this clock a mark may be; further, and some clock was wrong."""
_LONGEST_LEAP_SECONDS = 86_400.0


class ClockMark(Base):
    """Every occurrence of this job up to then was proposed, or left out on purpose."""

    __tablename__ = "switchyard_clock_marks"

    job: Mapped[str] = mapped_column(String(100), primary_key=True)
    seen_until: Mapped[datetime]


M = ClockMark


def read_marks(db: Database) -> dict[str, datetime]:
    """The marks by job."""
    return {row.job: row.seen_until for row in db.rows(select(M.job, M.seen_until))}


def begin_marks(db: Database, jobs: Collection[str], now: datetime) -> None:
    """Jobs that no clock knew before: their schedules count from `now` on."""
    rows = [{"job": job, "seen_until": now} for job in jobs]
    if rows:
        with db.autocommit() as connection:
            insert = INSERT[connection.dialect.name](cast(Table, M.__table__))
            connection.execute(insert.on_conflict_do_nothing(index_elements=["job"]), rows)


def advance_marks(db: Database, jobs: Collection[str], until: datetime) -> None:
    """Move these marks on, never back."""
    further = update(M).where(M.job.in_(jobs), M.seen_until < until).values(seen_until=until)
    if jobs:
        with db.autocommit() as connection:
            connection.execute(further)


def tick(spec: JobSpec, occurrence: datetime) -> Run:
    """Propose one scheduled occurrence, from whichever clock; the same one twice is one run.

    What no clock proposed before, of any job, is made up on the way.
    """
    run = _propose(spec, occurrence)
    try:
        catch_up(current(), occurrence)
    except SQLAlchemyError as failure:
        log.warning("missed ticks not looked for", extra={"reason": reason(failure)})
    return run


def proposal(spec: JobSpec, occurrence: datetime) -> tuple[Payload | None, str | None]:
    """The payload and the key of the run that a scheduled occurrence becomes."""
    payload = None if spec.tick is None else spec.tick(occurrence)
    return payload, None if spec.key is not None else f"tick:{iso(occurrence)}"


def _propose(spec: JobSpec, occurrence: datetime) -> Run:
    payload, key = proposal(spec, occurrence)
    return dispatch(spec.name, payload, key=key)


def catch_up(runtime: Runtime, until: datetime) -> bool:
    """Propose what was scheduled up to `until` and no clock proposed yet; False where some of it
    must be tried again. A job that no clock knew before begins now."""
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
    """The occurrences in (after, until] that are to be proposed."""
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
    """Whether that is done with; else it is to be tried again."""
    try:
        run = _propose(spec, occurrence)
    except BadInput as misfit:
        # Trying again cannot help, and must not hold up the ticks of other jobs.
        log.error("tick refused: %s", misfit, extra={"job": spec.name})
        return True
    except (SwitchyardError, SQLAlchemyError) as failure:
        why = {"job": spec.name, "reason": reason(failure)}
        log.warning("tick not recorded yet", extra=why)
        return False
    if run.created:
        log.info("tick", extra={"job": spec.name, "run": run.id, "at": iso(occurrence)})
    return True


class Ticker:
    """One clock process: looks once a round, and does not trust its own machine's time blindly."""

    def __init__(self, runtime: Runtime, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._monotonic = monotonic
        self._offset: float | None = None
        self._ran = 0.0
        self._leapt: float | None = None
        """When, by the monotonic clock, the time last was as before a leap forward."""
        self._trusted_from = 0.0
        self._seen: datetime | None = None

    @property
    def doing(self) -> str:
        """What it does, in words."""
        if self._seen is None:
            return "waits until its machine's time has gone on evenly"
        return f"has proposed what was due by {iso(self._seen)}"

    def round(self) -> None:
        """Propose what is due by now, if this clock is to be believed."""
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
        """Marks that a clock gone ahead has moved on would keep every later tick from being seen.

        They go back to what this process knows was right: what is proposed again is known.
        """
        to = now if self._seen is None else min(now, self._seen)
        if self._leapt is not None:
            to = now - timedelta(seconds=min(ran - self._leapt, _LONGEST_LEAP_SECONDS))
        back = update(M).where(M.seen_until > now + AHEAD).values(seen_until=to)
        with self._runtime.db.autocommit() as connection:
            wrong = connection.execute(back).rowcount
        if wrong:
            log.error("a clock had gone ahead", extra={"back_to": iso(to)})
            self._leapt = None

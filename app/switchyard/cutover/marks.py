"""How far each job's schedule was proposed, by whichever clock: so what none proposed is found."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import String, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import Base, Database


class ClockMark(Base):
    """Every occurrence of this job up to then was proposed, or left out on purpose."""

    __tablename__ = "switchyard_clock_marks"

    job: Mapped[str] = mapped_column(String(100), primary_key=True)
    seen_until: Mapped[datetime]


_M = ClockMark
_NEW = {
    name: insert(_M).on_conflict_do_nothing(index_elements=["job"])
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}


def read(db: Database) -> dict[str, datetime]:
    """The marks by job."""
    with db.autocommit() as connection:
        return {
            row.job: row.seen_until for row in connection.execute(select(_M.job, _M.seen_until))
        }


def begin(db: Database, jobs: Collection[str], now: datetime) -> None:
    """Jobs that no clock knew before: their schedules count from `now` on."""
    if not jobs:
        return
    with db.autocommit() as connection:
        rows = [{"job": job, "seen_until": now} for job in jobs]
        connection.execute(_NEW[connection.dialect.name], rows)


def advance(db: Database, jobs: Collection[str], until: datetime) -> None:
    """Move these marks on, never back."""
    if not jobs:
        return
    further = update(_M).where(_M.job.in_(jobs), _M.seen_until < until).values(seen_until=until)
    with db.autocommit() as connection:
        connection.execute(further)


def pull_back(db: Database, ahead_of: datetime, to: datetime) -> int:
    """Set the marks that are ahead of `ahead_of` back to `to`: a clock was wrong; how many."""
    back = update(_M).where(_M.seen_until > ahead_of).values(seen_until=to)
    with db.autocommit() as connection:
        return connection.execute(back).rowcount

"""What the jobs of the tests leave on record, each in a table of the tests' own, to be counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import String, func, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.switchyard.context import Context
from app.switchyard.db import Database
from tests.support.tables import Base


class Mark(Base):
    """One effect of a test job."""

    __tablename__ = "marks"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    what: Mapped[str] = mapped_column(String(200))
    backend: Mapped[str] = mapped_column(String(20))
    pid: Mapped[int]


class Touch(Base):
    """One try, committed on its own: counted whether or not the step held."""

    __tablename__ = "touches"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    what: Mapped[str] = mapped_column(String(200))


class Stay(Base):
    """One time inside a capped job's body."""

    __tablename__ = "stays"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    what: Mapped[str] = mapped_column(String(200))
    backend: Mapped[str] = mapped_column(String(20))
    pid: Mapped[int]
    entered: Mapped[float]
    """Seconds of the machine's monotonic clock, which all its processes share."""
    gone: Mapped[float | None]


def mark(tx: Session, ctx: Context, what: str) -> str:
    tx.execute(insert(Mark).values(what=what, backend=ctx.backend, pid=os.getpid()))
    return what


def touch(ctx: Context, what: str) -> int:
    """How often `what` was tried, this time included."""
    with ctx.transaction() as tx:
        tx.execute(insert(Touch).values(what=what))
        count = select(func.count()).select_from(Touch).where(Touch.what == what)
        return tx.scalar(count) or 0


def marks(db: Database) -> dict[str, int]:
    """How often each effect happened."""
    return dict(map(tuple, db.rows(select(Mark.what, func.count()).group_by(Mark.what))))


def touches(db: Database, what: str) -> int:
    count = select(func.count()).select_from(Touch).where(Touch.what == what)
    return db.value(count) or 0


def stay(tx: Session, ctx: Context, what: str, seconds: float) -> str:
    with ctx.transaction() as own:
        at = {"what": what, "backend": ctx.backend, "pid": os.getpid()}
        entered = insert(Stay).values(**at, entered=time.monotonic()).returning(Stay.id)
        row = own.scalar(entered)
    time.sleep(seconds)
    tx.execute(update(Stay).where(Stay.id == row).values(gone=time.monotonic()))
    return what


def stays(db: Database, prefix: str) -> list[Any]:
    """Every time inside, of the runs whose name begins with `prefix`."""
    chosen = select(Stay.__table__).where(Stay.what.startswith(prefix))
    return db.rows(chosen)


def most_at_once(inside: Iterable[Any]) -> int:
    """How many were inside at the same time."""
    moves = [(each.entered, 1) for each in inside] + [(each.gone, -1) for each in inside]
    now = most = 0
    for _, change in sorted(moves):
        now += change
        most = max(most, now)
    return most


def processes(db: Database, what: str) -> set[int]:
    """Which processes marked `what`."""
    return {one for (one,) in db.rows(select(Mark.pid).where(Mark.what == what))}

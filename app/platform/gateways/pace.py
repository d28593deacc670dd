"""A rate that all processes keep together, whatever backend they work for.

A leaky bucket in one row (the generic cell rate algorithm): whoever wants to call takes the next
free places in time at once, and need not ask again for each call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

from sqlalchemy import BigInteger, String, Table, and_, case
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base
from app.platform.ledger.postings import Tx, connection_of
from app.switchyard.db import INSERT

AT_ONCE = 8
"""Calls at once of one process; how many a second, the shared pace says."""
FAR_AHEAD = timedelta(minutes=10)
"""A place later than this was taken before a clock stepped back: it is not waited for."""
T = TypeVar("T")
R = TypeVar("R")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Pace(Base):
    """The next free place of one rate."""

    __tablename__ = "paces"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    next_us: Mapped[int] = mapped_column(BigInteger)
    """Microseconds since 1970, UTC: SQLite's times cannot be added up."""


paces = cast(Table, Pace.__table__)


@dataclass(frozen=True, slots=True)
class Places:
    """Places in a row, `gap_seconds` apart."""

    first: float
    """When the first one is, by this process's own monotonic clock, seconds."""
    gap_seconds: float

    def wait(self, place: int) -> None:
        """Sleep until the time of place number `place`, from 0."""
        ahead = self.first + place * self.gap_seconds - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What `work` makes of each item at its place, a few at once. Raises what it raises."""

        def one(place: int, item: T) -> R:
            self.wait(place)
            return work(item)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(len(items)), items))


def take(tx: Tx, name: str, calls: int, per_second: float, now: datetime) -> Places:
    """Take `calls` places in a row, `1 / per_second` seconds apart.

    What is taken and not used is lost: a process that dies costs the others that much time.
    """
    connection = connection_of(tx)
    start = (now - _EPOCH) // _MICROSECOND
    span = round(calls * 1_000_000 / per_second)
    far = start + FAR_AHEAD // _MICROSECOND
    column = paces.c.next_us
    first = case((and_(column > start, column <= far), column), else_=start)
    insert = INSERT[connection.dialect.name](paces).values(name=name, next_us=start + span)
    taken = insert.on_conflict_do_update(index_elements=["name"], set_={"next_us": first + span})
    end: int = connection.execute(taken.returning(column)).scalar_one()
    ahead = (end - span - start) / 1_000_000
    return Places(time.monotonic() + ahead, 1 / per_second)

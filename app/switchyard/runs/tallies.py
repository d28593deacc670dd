"""Counters that never fall. They are kept in the ledger, so that every process reports the same
figures and none loses them when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sqlalchemy import Connection, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import INSERT, Base

Tally = tuple[str, str, str, str]
"""What is counted, the job, its backend, and a label (a status, a side, a bound) or ''."""


class TallyRow(Base):
    """How often something has happened, or how many seconds it took in all."""

    __tablename__ = "switchyard_tallies"

    name: Mapped[str] = mapped_column(String(30), primary_key=True)
    job: Mapped[str] = mapped_column(String(100), primary_key=True)
    backend: Mapped[str] = mapped_column(String(20), primary_key=True)
    label: Mapped[str] = mapped_column(String(30), primary_key=True)
    value: Mapped[float]


RESENDS = "resends"
"""The tally of runs that the relay resent because their backend had lost them."""
tallies = cast(Table, TallyRow.__table__)


def add(connection: Connection, counts: Mapping[Tally, float]) -> None:
    """Add to these tallies, always in the same order so that two at once cannot deadlock."""
    keys = ("name", "job", "backend", "label")
    rows = [{**dict(zip(keys, of, strict=True)), "value": n} for of, n in sorted(counts.items())]
    insert = INSERT[connection.dialect.name](tallies)
    more = {"value": tallies.c.value + insert.excluded.value}
    if rows:
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=more), rows)

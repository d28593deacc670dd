"""Keys pinned to a side, whatever the percent says: a list of creators first, or one never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Select, String, Text, insert, select
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from app.switchyard.db import Base, Database
from app.switchyard.errors import StageRefused
from app.switchyard.runs.create import KEY_LENGTH
from flags import Side

MOST = 1000
"""Pinned keys of one job: every process reads them all each second."""


class PinChange(Base):
    """A key was pinned to a side, or (no side) let go; the latest change of a key stands."""

    __tablename__ = "switchyard_pins"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    job: Mapped[str] = mapped_column(String(100))
    key: Mapped[str] = mapped_column(String(KEY_LENGTH))
    side: Mapped[str | None] = mapped_column(String(20))
    by: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(f"side IN ('{Side.RQ}', '{Side.SERVERLESS}')", name="known_side"),
        Index("ix_switchyard_pins_latest", "job", "key", "id"),
        {"sqlite_autoincrement": True},
    )


@dataclass(frozen=True, slots=True)
class Pin:
    """A pinned key as it stands."""

    job: str
    key: str
    side: str
    at: datetime
    by: str
    why: str


P = PinChange
_later = aliased(PinChange)
_LATEST = (
    ~select(_later.id).where(_later.job == P.job, _later.key == P.key, _later.id > P.id).exists()
)
STANDING: Select[*tuple[Any, ...]] = (
    select(P.job, P.key, P.side).where(P.side.is_not(None), _LATEST).order_by(P.job, P.key)
)
"""What every process reads with the stages."""


def standing(db: Database, job: str | None = None) -> list[Pin]:
    """The pinned keys, of one job or all."""
    chosen: Select[*tuple[Any, ...]] = STANDING.with_only_columns(
        P.job, P.key, P.side, P.at, P.by, P.why
    )
    if job is not None:
        chosen = chosen.where(P.job == job)
    with db.autocommit() as connection:
        return [Pin(*row) for row in connection.execute(chosen)]


def any_pinned(tx: Session, job: str, side: Side) -> bool:
    """Whether a key of the job is pinned to that side."""
    chosen = STANDING.where(P.job == job, P.side == side).limit(1)
    return tx.execute(chosen).first() is not None


def pin(
    db: Database,
    job: str,
    keys: Sequence[str],
    side: str | None,
    *,
    by: str,
    why: str,
    now: datetime,
) -> int:
    """Pin the keys to `side`, or let them go (None), on record; how many that changed.

    A key is what places a run in a ramp: the job's `ramp_by`, else the run's key. Raises
    StageRefused, and changes nothing.
    """
    if side is not None and side not in Side.__members__.values():
        raise StageRefused(f"a side is {' or '.join(Side)}, not {side!r}")
    if not why.strip():
        raise StageRefused("say why: the history is read at 2 a.m.")
    for key in keys:
        if not 0 < len(key) <= KEY_LENGTH:
            raise StageRefused(f"a key has 1 to {KEY_LENGTH} characters")
    with db.session() as tx:
        chosen = STANDING.where(P.job == job)
        stands = {row.key: row.side for row in tx.execute(chosen)}
        new = [key for key in dict.fromkeys(keys) if stands.get(key) != side]
        if side is not None and len(stands.keys() | set(new)) > MOST:
            raise StageRefused(f"{job} would have more than {MOST} pinned keys: use a ramp")
        told = {"at": now, "job": job, "side": side, "by": by, "why": why.strip()}
        if new:
            tx.execute(insert(P), [told | {"key": key} for key in new])
    return len(new)

"""The stage store: where each job stands in its migration, and which keys are pinned to a side,
whatever the percent says: a list of creators first, or one never. Both are only added to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict, Unpack

from sqlalchemy import CheckConstraint, Index, Select, String, Text, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from app.switchyard.db import Base, Database
from app.switchyard.errors import StageRefused
from app.switchyard.runs.create import KEY_LENGTH
from flags import Side, Stage, StageRow

_BEFORE_COMPLETE = "it comes after live, when the old side has nothing left to do"
_FROM_COMPLETE = "a job that is complete goes back to live, or to legacy at once"
REFUSED: dict[tuple[Stage, Stage], str] = {
    (Stage.LEGACY, Stage.COMPLETE): _BEFORE_COMPLETE,
    (Stage.SHADOW, Stage.COMPLETE): _BEFORE_COMPLETE,
    (Stage.RAMP, Stage.COMPLETE): _BEFORE_COMPLETE,
    (Stage.COMPLETE, Stage.SHADOW): _FROM_COMPLETE,
    (Stage.COMPLETE, Stage.RAMP): _FROM_COMPLETE,
}
"""Moves that make no sense, and why; every other one is made, and legacy can be gone back to from
anywhere."""
# Whoever dispatches waits for this read: locked for longer, the store counts as away.
_PATIENCE = text("SET LOCAL lock_timeout = '300ms'")


class StageChange(Base):
    """One change of one job's stage; the latest one is where it stands, its id the version."""

    __tablename__ = "switchyard_stage_changes"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    job: Mapped[str] = mapped_column(String(100))
    from_stage: Mapped[str] = mapped_column(String(20))
    to_stage: Mapped[str] = mapped_column(String(20))
    percent: Mapped[float | None]
    by: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)
    follows: Mapped[int | None]
    """The job's change before this one, 0 for its first: two changes cannot follow the same one."""
    forced: Mapped[bool | None]
    """Whether it was made although something spoke against it."""

    __table_args__ = (
        CheckConstraint(
            f"to_stage IN ({', '.join(repr(str(stage)) for stage in Stage)})", name="known_stage"
        ),
        CheckConstraint(
            "(to_stage = 'ramp') = (percent IS NOT NULL) AND (percent IS NULL OR"
            " (percent >= 0 AND percent <= 100))",
            name="ramp_has_percent",
        ),
        Index("ix_switchyard_stage_changes_latest", "job", "id"),
        Index("uq_switchyard_stage_changes_follows", "job", "follows", unique=True),
        {"sqlite_autoincrement": True},
    )


def current_stages(db: Database) -> list[StageRow]:
    """Where each job that ever changed its stage stands, with its pinned keys."""
    C = StageChange
    latest = select(func.max(C.id)).group_by(C.job).scalar_subquery()
    chosen = select(C.job, C.to_stage, C.percent, C.id).where(C.id.in_(latest))
    pinned = defaultdict[str, list[tuple[str, str]]](list)
    with db.reading() as session:
        if not db.is_sqlite:
            session.execute(_PATIENCE)
        rows = session.execute(chosen).all()
        for job, key, side in session.execute(PINNED):
            pinned[job].append((key, side))
    return [StageRow(*row, pins=tuple(pinned[row.job])) for row in rows]


class OnRecord(TypedDict):
    """What goes on record with a move, and where the job must stand for it to be made."""

    by: str
    why: str
    now: datetime
    expected: NotRequired[int | None]
    forced: NotRequired[bool]


def set_stage(
    db: Database, job: str, stage: str, percent: float | None, **told: Unpack[OnRecord]
) -> StageChange:
    """Move `job` to `stage` in a transaction of its own; see change()."""
    with db.session() as tx:
        return change(tx, job, stage, percent, **told)


def change(
    tx: Session,
    job: str,
    stage: str,
    percent: float | None,
    *,
    by: str,
    why: str,
    now: datetime,
    expected: int | None = None,
    forced: bool = False,
) -> StageChange:
    """Move `job` to `stage` in the caller's transaction; of two moves at once, one is made.

    Raises StageRefused with the reason: the move makes no sense, somebody else moved the job at the
    same moment, or it does not stand at version `expected` any more. What speaks against `complete`
    is the gate's to say (app.switchyard.cutover.status), before.
    """
    _check(stage, percent, why)
    C = StageChange
    last = tx.scalars(select(C).where(C.job == job).order_by(C.id.desc()).limit(1)).first()
    before = Stage.LEGACY if last is None else Stage(last.to_stage)
    follows = 0 if last is None else last.id
    if expected is not None and expected != follows:
        raise StageRefused(f"{job} was moved meanwhile: it stands at {before}")
    # Legacy may be said of a job that was never staged: then it is an off switch of its own.
    if last is not None and (last.to_stage, last.percent) == (stage, percent):
        where = stage if percent is None else f"{stage} {percent:g} %"
        raise StageRefused(f"{job} already stands at {where}")
    if (reason := REFUSED.get((before, Stage(stage)))) is not None:
        raise StageRefused(f"{job} cannot go from {before} to {stage}: {reason}")
    if percent == 0 and not any_pinned(tx, job, Side.SERVERLESS):
        raise StageRefused(f"a ramp of 0 % is for pinned keys, and {job} has none: say legacy")
    values = {
        "at": now,
        "job": job,
        "from_stage": before,
        "to_stage": stage,
        "percent": percent,
        "by": by,
        "why": why.strip(),
        "follows": follows,
        "forced": forced,
    }
    return _follow(tx, values, job)


def _follow(tx: Session, values: dict[str, Any], job: str) -> StageChange:
    try:
        return tx.scalars(insert(StageChange).values(values).returning(StageChange)).one()
    except IntegrityError:
        raise StageRefused(f"{job} was moved by somebody else at this moment: look again") from None


def _check(stage: str, percent: float | None, why: str) -> None:
    if stage not in Stage.__members__.values():
        raise StageRefused(f"stage must be one of {', '.join(Stage)}, not {stage!r}")
    if (stage == Stage.RAMP) != (percent is not None):
        raise StageRefused("a ramp needs a percent, and only a ramp has one")
    if percent is not None and not 0 <= percent <= 100:
        raise StageRefused(f"percent must be 0 to 100, not {percent:g}")
    if not why.strip():
        raise StageRefused("say why: the history is read at 2 a.m.")


def history(db: Database, job: str | None = None, limit: int = 200) -> list[StageChange]:
    """The latest changes, newest first."""
    chosen = select(StageChange).order_by(StageChange.id.desc()).limit(limit)
    if job is not None:
        chosen = chosen.where(StageChange.job == job)
    with db.session() as session:
        return list(session.scalars(chosen))


MOST_PINS = 1000
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
PINNED: Select[*tuple[Any, ...]] = (
    select(P.job, P.key, P.side).where(P.side.is_not(None), _LATEST).order_by(P.job, P.key)
)
"""What every process reads with the stages."""


def pinned_keys(db: Database, job: str | None = None) -> list[Pin]:
    """The pinned keys, of one job or all."""
    chosen: Select[*tuple[Any, ...]] = PINNED.with_only_columns(
        P.job, P.key, P.side, P.at, P.by, P.why
    )
    if job is not None:
        chosen = chosen.where(P.job == job)
    with db.autocommit() as connection:
        return [Pin(*row) for row in connection.execute(chosen)]


def any_pinned(tx: Session, job: str, side: Side) -> bool:
    """Whether a key of the job is pinned to that side."""
    chosen = PINNED.where(P.job == job, P.side == side).limit(1)
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
        chosen = PINNED.where(P.job == job)
        stands = {row.key: row.side for row in tx.execute(chosen)}
        new = [key for key in dict.fromkeys(keys) if stands.get(key) != side]
        if side is not None and len(stands.keys() | set(new)) > MOST_PINS:
            raise StageRefused(f"{job} would have more than {MOST_PINS} pinned keys: use a ramp")
        told = {"at": now, "job": job, "side": side, "by": by, "why": why.strip()}
        if new:
            tx.execute(insert(P), [told | {"key": key} for key in new])
    return len(new)

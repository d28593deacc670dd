"""The stage store: where each job stands in its migration, as an append-only history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, String, Text, func, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Database
from app.errors import StageRefused
from flags import Stage, StageRow

SETTABLE = (Stage.LEGACY, Stage.RAMP, Stage.LIVE)


class StageChange(Base):
    """One change of one job's stage; the latest one is where it stands, its id the version."""

    __tablename__ = "stage_changes"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    job: Mapped[str] = mapped_column(String(100))
    from_stage: Mapped[str] = mapped_column(String(20))
    to_stage: Mapped[str] = mapped_column(String(20))
    percent: Mapped[float | None]
    by: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(
            f"to_stage IN ({', '.join(repr(str(stage)) for stage in Stage)})", name="known_stage"
        ),
        CheckConstraint(
            "(to_stage = 'ramp') = (percent IS NOT NULL) AND (percent IS NULL OR"
            " (percent >= 0 AND percent <= 100))",
            name="ramp_has_percent",
        ),
        Index("ix_stage_changes_latest", "job", "id"),
        {"sqlite_autoincrement": True},
    )


def current(db: Database) -> list[StageRow]:
    """Where each job that ever changed its stage stands."""
    C = StageChange
    latest = select(func.max(C.id)).group_by(C.job).scalar_subquery()
    chosen = select(C.job, C.to_stage, C.percent, C.id).where(C.id.in_(latest))
    with db.autocommit() as connection:
        return [StageRow(*row) for row in connection.execute(chosen)]


def set_stage(
    db: Database, job: str, stage: str, percent: float | None, *, by: str, why: str, now: datetime
) -> StageChange:
    """Move `job` to `stage`, on record with who and why. Raises StageRefused with the reason."""
    if stage not in SETTABLE:
        raise StageRefused(f"stage must be one of {', '.join(SETTABLE)}, not {stage!r}")
    if (stage == Stage.RAMP) != (percent is not None):
        raise StageRefused("a ramp needs a percent, and only a ramp has one")
    if percent is not None and not 0 <= percent <= 100:
        raise StageRefused(f"percent must be 0 to 100, not {percent:g}")
    if not why.strip():
        raise StageRefused("say why: the history is read at 2 a.m.")
    C = StageChange
    with db.session() as session:
        last = session.scalars(select(C).where(C.job == job).order_by(C.id.desc()).limit(1)).first()
        before = Stage.LEGACY if last is None else last.to_stage
        if last is not None and (last.to_stage, last.percent) == (stage, percent):
            where = stage if percent is None else f"{stage} {percent:g} %"
            raise StageRefused(f"{job} already stands at {where}")
        values = {
            "at": now,
            "job": job,
            "from_stage": before,
            "to_stage": stage,
            "percent": percent,
            "by": by,
            "why": why.strip(),
        }
        change = session.scalars(insert(C).values(values).returning(C)).one()
        session.expunge(change)
        return change


def history(db: Database, job: str | None = None, limit: int = 200) -> list[StageChange]:
    """The latest changes, newest first."""
    chosen = select(StageChange).order_by(StageChange.id.desc()).limit(limit)
    if job is not None:
        chosen = chosen.where(StageChange.job == job)
    with db.session() as session:
        return list(session.scalars(chosen))

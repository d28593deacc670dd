"""The stage store: each job's stage, and the keys that are pinned to a side whatever the percent.
Both are histories, whose rows are never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, Index, Select, String, Text, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from app.switchyard import audit
from app.switchyard.audit import GUARDRAIL, WHY, By
from app.switchyard.cutover import shadow
from app.switchyard.db import Base, Database
from app.switchyard.errors import GateClosed, StageRefused, did_you_mean
from app.switchyard.runs.models import IS_OPEN
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import KEY_LENGTH
from app.switchyard.text import plain
from app.switchyard.words import plural
from flags import LEGACY_BACKEND, Side, Stage, StageRow

CALM = timedelta(hours=24)
"""How long after the guardrail fired a job cannot be called complete."""
MOST_PINS = 1000
"""How many keys of a job may be pinned: every process reads them all each second."""
# A dispatch waits for this read. If it is locked for longer, the store counts as unavailable.
_PATIENCE = text("SET LOCAL lock_timeout = '300ms'")


class StageChange(Base):
    """One change of a job's stage. The latest is its current stage, and the id is the version."""

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
    """The job's previous change, or 0 for its first one. Two changes cannot follow the same one."""
    forced: Mapped[bool | None]
    """Whether it was made although the gate was closed."""

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


class PinChange(Base):
    """A key was pinned to a side, or unpinned (no side). The latest change of a key counts."""

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


C, P = StageChange, PinChange
_later = aliased(PinChange)
_LATEST_STAGES = select(C.job, C.to_stage, C.percent, C.id).where(
    C.id.in_(select(func.max(C.id)).group_by(C.job).scalar_subquery())
)
_PINNED: Select[*tuple[Any, ...]] = (
    select(P.job, P.key, P.side, P.at, P.by, P.why)
    .where(
        P.side.is_not(None),
        ~select(_later.id)
        .where(_later.job == P.job, _later.key == P.key, _later.id > P.id)
        .exists(),
    )
    .order_by(P.job, P.key)
)


def current_stages(db: Database) -> list[StageRow]:
    """The stage of each job that ever changed it, with its pinned keys."""
    pins = defaultdict[str, list[tuple[str, str]]](list)
    with db.reading() as session:
        if not db.is_sqlite:
            session.execute(_PATIENCE)
        latest = session.execute(_LATEST_STAGES).all()
        for row in session.execute(_PINNED.with_only_columns(P.job, P.key, P.side)):
            pins[row.job].append((row.key, row.side))
    return [StageRow(*row, pins=tuple(pins[row.job])) for row in latest]


def set_stage(
    db: Database,
    job: str,
    stage: str,
    percent: float | None,
    by: By,
    now: datetime,
    *,
    expected: int | None = None,
    force: bool = False,
    tx: Session | None = None,
) -> StageChange:
    """Move `job` to `stage`, in the caller's transaction `tx` if there is one. Of two moves at the
    same time, one is made.

    Raises GateClosed where `complete` is refused; `force` overrides that, which is recorded. Raises
    StageRefused with the reason where the move makes no sense, somebody else moved the job at the
    same moment, or it is no longer at version `expected`.
    """
    against = obstacles(db, job, now) if stage == Stage.COMPLETE else []
    if against and not force:
        raise GateClosed(f"{job} is not complete: {'; '.join(against)}")
    if against and by.why:
        by = By(by.who, f"{by.why} (forced past: {'; '.join(against)})")
    check(stage, percent, by)
    with db.session() if tx is None else nullcontext(tx) as within:
        latest = select(C).where(C.job == job).order_by(C.id.desc()).limit(1)
        last = within.scalars(latest).first()
        before = Stage.LEGACY if last is None else Stage(last.to_stage)
        follows = 0 if last is None else last.id
        if expected is not None and expected != follows:
            raise StageRefused(f"{job} was moved meanwhile: it is now at {before}")
        # A job that never had a stage may be set to legacy, which makes that an off switch.
        if last is not None and (last.to_stage, last.percent) == (stage, percent):
            where = stage if percent is None else f"{stage} {percent:g} %"
            raise StageRefused(f"{job} is already at {where}")
        _check_move(job, before, Stage(stage))
        pinned = _PINNED.where(P.job == job, P.side == Side.SERVERLESS).limit(1)
        if percent == 0 and within.execute(pinned).first() is None:
            raise StageRefused(f"a ramp of 0 % is for pinned keys, and {job} has none: use legacy")
        values = {"at": now, "job": job, "from_stage": before, "to_stage": stage}
        values |= {"percent": percent, "by": by.who, "why": by.why}
        return _add(within, values | {"follows": follows, "forced": bool(against)})


def _add(tx: Session, values: dict[str, Any]) -> StageChange:
    try:
        change = tx.scalars(insert(C).values(values).returning(C)).one()
    except IntegrityError:
        moved = f"somebody else moved {values['job']} at the same moment: look again"
        raise StageRefused(moved) from None
    detail = {"from": change.from_stage, "to": change.to_stage, "percent": change.percent}
    detail["forced"] = bool(change.forced)
    by = By(change.by, change.why)
    audit.record(tx.connection(), "stage", by, change.at, job=change.job, detail=detail)
    return change


def gate(db: Database, job: str, now: datetime) -> list[tuple[str, str | None]]:
    """The conditions for `complete`. Each comes with what fails and what to do about it, or None
    where it holds."""
    opened = select(func.count()).where(IS_OPEN, R.job == job, R.backend == LEGACY_BACKEND)
    left = db.value(opened)
    differences = shadow.unexplained(db, job)
    drain = f"{plural(left, 'open run')} on the old side (cutover drain {job} --to serverless)"
    to_explain = plural(differences, "difference")
    explain = f"{to_explain} that nobody has explained (cutover parity {job})"
    fired = next((step.at for step in stepped_back(db, now) if step.job == job), None)
    at = fired and f"the guardrail fired at {fired:%Y-%m-%d %H:%M} UTC, less than 24 hours ago"
    return [
        ("no run is open on the old side", drain if left else None),
        ("every difference is explained", explain if differences else None),
        ("the guardrail has been quiet for 24 hours", at),
    ]


def stepped_back(db: Database, now: datetime) -> list[Any]:
    """The guardrail's changes of stage in the last 24 hours, newest first."""
    columns = (C.job, C.from_stage, C.to_stage, C.percent, C.at, C.why)
    steps = select(*columns).where(C.by == GUARDRAIL, C.at > now - CALM)
    return db.rows(steps.order_by(C.id.desc()))


def obstacles(db: Database, job: str, now: datetime) -> list[str]:
    """Why the job cannot be called complete, each reason with what to do about it."""
    return [against for _, against in gate(db, job, now) if against is not None]


def check(stage: str, percent: float | None, by: By) -> None:
    """Raise StageRefused where no job can be moved to `stage` like this."""
    if stage not in Stage.__members__.values():
        hint = did_you_mean(stage, Stage)
        raise StageRefused(f"stage must be one of {', '.join(Stage)}, not {stage!r}{hint}")
    if stage == Stage.RAMP and percent is None:
        raise StageRefused("a ramp needs a percent, such as 10")
    if stage != Stage.RAMP and percent is not None:
        raise StageRefused(f"{stage} has no percent: only a ramp has one")
    if percent is not None and not 0 <= percent <= 100:
        raise StageRefused(f"percent must be 0 to 100, not {percent:g}")
    if not by.why:
        raise StageRefused(WHY)


def _check_move(job: str, before: Stage, to: Stage) -> None:
    """Raise StageRefused where the move makes no sense. Any stage may go back to legacy."""
    reason = None
    if to == Stage.COMPLETE and before != Stage.LIVE:
        reason = "it comes after live, when the old side has nothing left to do"
    elif before == Stage.COMPLETE and to in (Stage.SHADOW, Stage.RAMP):
        reason = "a complete job can only go back to live or legacy"
    if reason is not None:
        raise StageRefused(f"{job} cannot go from {before} to {to}: {reason}")


def pinned_keys(db: Database, job: str | None = None) -> list[dict[str, Any]]:
    """The pinned keys of one job or of all jobs, as in `cutover pins --json`."""
    chosen = _PINNED if job is None else _PINNED.where(P.job == job)
    return [row._asdict() for row in db.rows(chosen)]


def pin(
    db: Database, job: str, keys: Sequence[str], side: str | None, by: By, now: datetime
) -> int:
    """Pin the keys to `side`, or unpin them (None). Returns how many of them that changed.

    A key is what places a run in a ramp: what the job's `ramp_by` gives, or else the run's key.
    The change is audited. Raises BadInput or StageRefused, and then changes nothing.
    """
    if side is not None and side not in Side.__members__.values():
        raise StageRefused(f"side must be {' or '.join(Side)}, not {side!r}")
    if not by.why:
        raise StageRefused(WHY)
    for key in keys or [""]:
        plain("a key", key, KEY_LENGTH)
    with db.session() as tx:
        pinned = {row.key: row.side for row in tx.execute(_PINNED.where(P.job == job))}
        new = [key for key in dict.fromkeys(keys) if pinned.get(key) != side]
        if side is not None and len(pinned.keys() | set(new)) > MOST_PINS:
            raise StageRefused(f"{job} would have more than {MOST_PINS} pinned keys: use a ramp")
        values = {"at": now, "job": job, "side": side, "by": by.who, "why": by.why}
        if new:
            tx.execute(insert(P), [values | {"key": key} for key in new])
            what: dict[str, Any] = {"job": job, "detail": {"side": side}, "count": len(new)}
            audit.record(tx.connection(), "pin", by, now, **what)
    return len(new)

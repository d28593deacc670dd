"""The audit: every act of an operator, or of the guardrail, with who, why and how many. It is only
ever added to, in the transaction of the act where there is one; an act in batches adds up."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Index, String, Text, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.clock import iso, utcnow
from app.switchyard.db import Base, canonical_json


class AuditRow(Base):
    """One act."""

    __tablename__ = "switchyard_audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    act: Mapped[str] = mapped_column(String(20))
    """stage, pin, explain, drain, rollback, retry, cancel, or what else is done."""
    job: Mapped[str | None] = mapped_column(String(100))
    """None: of more than one."""
    run_id: Mapped[str | None] = mapped_column(String(32))
    who: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)
    count: Mapped[int] = mapped_column(default=1)
    """How many it was done to: runs, keys, differences."""
    detail: Mapped[str | None] = mapped_column(Text)
    """What else is to be known of it, as JSON."""

    __table_args__ = (
        Index("ix_switchyard_audit_job", "job", "id"),
        {"sqlite_autoincrement": True},
    )


A = AuditRow


def record(
    connection: Connection,
    act: str,
    *,
    who: str,
    why: str = "",
    job: str | None = None,
    run_id: str | None = None,
    count: int = 1,
    detail: dict[str, Any] | None = None,
    now: datetime | None = None,
) -> int:
    """Add one act, in the transaction of `connection`; its id."""
    values = {"at": now or utcnow(), "act": act, "job": job, "run_id": run_id, "who": who}
    values |= {"why": why, "count": count}
    text = None if detail is None else canonical_json(detail)
    return connection.scalars(insert(A).values(**values, detail=text).returning(A.id)).one()


def add(connection: Connection, act_id: int, act: str, who: str, count: int) -> bool:
    """Add to how many an act was done to; False where it is no such act of theirs."""
    own = update(A).where(A.id == act_id, A.act == act, A.who == who)
    return connection.execute(own.values(count=A.count + count)).rowcount == 1


def history(
    connection: Connection,
    *,
    job: str | None = None,
    act: str | None = None,
    run_id: str | None = None,
    before: int | None = None,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """The latest acts, newest first; `before` is the last id of a page."""
    columns = (A.id, A.at, A.act, A.job, A.run_id, A.who, A.why, A.count, A.detail)
    chosen = select(*columns).order_by(A.id.desc()).limit(limit)
    for column, wanted in ((A.job, job), (A.act, act), (A.run_id, run_id)):
        if wanted is not None:
            chosen = chosen.where(column == wanted)
    if before is not None:
        chosen = chosen.where(A.id < before)
    return [
        row._asdict() | {"at": iso(row.at), "detail": row.detail and json.loads(row.detail)}
        for row in connection.execute(chosen)
    ]

"""The audit: every act of an operator or of the guardrail, with who, why and how many.

Rows are only ever added, in the transaction of the act where it has one. An act in batches adds to
its row's count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Index, String, Text, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import Base, Database, as_bigint, canonical_json
from app.switchyard.errors import BadInput
from app.switchyard.text import plain

GUARDRAIL = "guardrail"
"""The name under which the guardrail acts."""
WHO_LENGTH, WHY_LENGTH = 100, 2000
WHY = "say why: the history is read at 2 a.m."


class AuditRow(Base):
    """One act."""

    __tablename__ = "switchyard_audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    act: Mapped[str] = mapped_column(String(20))
    """stage, pin, explain, drain, rollback, retry, cancel, or what else is done."""
    job: Mapped[str | None] = mapped_column(String(100))
    """None where the act concerns more than one job."""
    run_id: Mapped[str | None] = mapped_column(String(32))
    who: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)
    count: Mapped[int] = mapped_column(default=1)
    """How many runs, keys or differences it touched."""
    detail: Mapped[str | None] = mapped_column(Text)
    """Further details, as JSON."""

    __table_args__ = (
        Index("ix_switchyard_audit_job", "job", "id"),
        Index("ix_switchyard_audit_job_act", "job", "act", "id"),
        Index("ix_switchyard_audit_act", "act", "id"),
        Index("ix_switchyard_audit_run", "run_id", "id"),
        {"sqlite_autoincrement": True},
    )


A = AuditRow


@dataclass(slots=True)
class By:
    """Who acts, and why. Raises BadInput where that cannot be stored."""

    who: str
    why: str = ""

    def __post_init__(self) -> None:
        self.who, self.why = plain("by", self.who.strip(), WHO_LENGTH), self.why.strip()
        if self.why:
            plain("why", " ".join(self.why.split()), WHY_LENGTH)

    @classmethod
    def person(cls, who: str, why: str = "") -> By:
        """A person. Raises BadInput also where they sign as the guardrail."""
        if who.strip() == GUARDRAIL:
            raise BadInput(f"by {GUARDRAIL!r}: the guardrail signs for itself")
        return cls(who, why)

    def with_reason(self) -> By:
        """The same author. Raises BadInput where they give no reason."""
        if not self.why:
            raise BadInput(WHY)
        return self


def record(
    connection: Connection,
    act: str,
    by: By,
    now: datetime,
    *,
    job: str | None = None,
    run_id: str | None = None,
    count: int = 1,
    detail: dict[str, Any] | None = None,
) -> int:
    """Add an act in the transaction of `connection`. Returns its id."""
    values = {"at": now, "act": act, "job": job, "run_id": run_id, "who": by.who, "why": by.why}
    text = None if detail is None else canonical_json(detail)
    added = insert(A).values(**values, count=count, detail=text)
    return connection.scalars(added.returning(A.id)).one()


def add(connection: Connection, act_id: int, act: str, by: By, count: int) -> None:
    """Add to the count of an act. Raises BadInput where this author has no such act."""
    own = update(A).where(A.id == as_bigint(act_id), A.act == act, A.who == by.who)
    if connection.execute(own.values(count=A.count + count)).rowcount != 1:
        raise BadInput(f"act: no {act} of {by.who} has this number")


def history(
    db: Database,
    *,
    job: str | None = None,
    act: str | None = None,
    run_id: str | None = None,
    before: int | None = None,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """The latest acts, newest first. `before` is the last id of the previous page. A change of
    stage has `from` and `to`, as in `cutover history --json`."""
    columns = (A.id, A.at, A.act, A.job, A.run_id, A.who, A.why, A.count, A.detail)
    chosen = select(*columns).order_by(A.id.desc()).limit(limit)
    for column, wanted in ((A.job, job), (A.act, act), (A.run_id, run_id)):
        if wanted is not None:
            chosen = chosen.where(column == wanted)
    if before is not None:
        chosen = chosen.where(A.id < as_bigint(before))
    return [_shown(row._asdict()) for row in db.rows(chosen)]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    detail = row["detail"] and json.loads(row["detail"])
    changed = detail if row["act"] == "stage" else None
    return row | {"by": row["who"], "detail": detail} | (changed or {})

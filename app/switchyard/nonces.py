"""Nonces: what is valid only once, or no longer. Each is kept until it would have expired."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import String, Table, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.switchyard.clock import utcnow
from app.switchyard.db import INSERT, Base, Database
from app.switchyard.runs.retention import Page


class Nonce(Base):
    """A signed call that was accepted, or a session that was ended."""

    __tablename__ = "switchyard_nonces"

    id: Mapped[str] = mapped_column(String(300), primary_key=True)
    value: Mapped[str] = mapped_column(String(300))
    """What it was used for."""
    expires_at: Mapped[datetime] = mapped_column(index=True)


_INSERT = {
    name: insert(cast(Table, Nonce.__table__)).on_conflict_do_nothing(index_elements=["id"])
    for name, insert in INSERT.items()
}


def used_for(db: Database, nonce: str) -> str | None:
    """What `nonce` was used for, or None where it was not. Raises SQLAlchemy's errors."""
    used: str | None = db.value(select(Nonce.value).where(Nonce.id == nonce))
    return used


def use(db: Database, nonce: str, value: str, expires_at: datetime) -> str:
    """Use `nonce` for `value`, unless it was used before. Returns what it was first used for."""
    row = {"id": nonce, "value": value, "expires_at": expires_at}
    with db.autocommit() as connection:
        connection.execute(_INSERT[connection.dialect.name], row)
        first = connection.scalar(select(Nonce.value).where(Nonce.id == nonce))
    return value if first is None else first


def renew(db: Database, nonce: str, expires_at: datetime) -> None:
    """Write `nonce` again, which shows that the database can be written to."""
    row = {"id": nonce, "value": "", "expires_at": expires_at}
    with db.autocommit() as connection:
        insert = INSERT[connection.dialect.name](cast(Table, Nonce.__table__))
        renewed = {"expires_at": insert.excluded.expires_at}
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=renewed), row)


def prune_nonces(tx: Session, _before: datetime, _after: str) -> Page:
    """Delete all that have expired."""
    gone = delete(Nonce).where(Nonce.expires_at < utcnow())
    return tx.connection().execute(gone).rowcount, None

"""Earnings summed up, and which days are out of date. Amounts are minor units, days UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import cast

from sqlalchemy import BigInteger, ForeignKey, Index, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base
from app.platform.earnings.models import Earning
from app.switchyard.db import on_create

# SQLite keeps the rows in their key's own index.
_BY_KEY = {"sqlite_with_rowid": False}


class _Sums:
    """gross - refunds - fees = net: what the creator's balance changed by."""

    gross: Mapped[int] = mapped_column(BigInteger)
    """Of the sales."""
    refunds: Mapped[int] = mapped_column(BigInteger)
    """What refunds and disputes took back, less what won disputes gave again: gross."""
    fees: Mapped[int] = mapped_column(BigInteger)
    """The platform's, less those given back."""
    net: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int] = mapped_column(BigInteger)
    """Sales."""


class DailyEarnings(_Sums, Base):
    """A creator's day."""

    __tablename__ = "daily_earnings"

    day: Mapped[date] = mapped_column(primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    source: Mapped[str] = mapped_column(String(40), primary_key=True)

    __table_args__ = (Index("ix_daily_earnings_creator", "creator_id", "day"), _BY_KEY)


class MonthlyEarnings(_Sums, Base):
    """A creator's month, by its first day; summed up from the days."""

    __tablename__ = "monthly_earnings"

    month: Mapped[date] = mapped_column(primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    source: Mapped[str] = mapped_column(String(40), primary_key=True)

    __table_args__ = (Index("ix_monthly_earnings_creator", "creator_id", "month"), _BY_KEY)


class LifetimeEarnings(_Sums, Base):
    """All a creator ever earned, as far as it is rolled up."""

    __tablename__ = "lifetime_earnings"

    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), primary_key=True)

    # Room to update a row in its page, and so without its index.
    __table_args__ = ({**_BY_KEY, "postgresql_with": {"fillfactor": 50}},)


class PlatformDay(_Sums, Base):
    """The whole platform's day."""

    __tablename__ = "platform_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    source: Mapped[str] = mapped_column(String(40), primary_key=True)
    creators: Mapped[int]
    """How many had a part in it."""


class DirtyDay(Base):
    """A day whose earnings changed since it was rolled up.

    Marked by a trigger, in the transaction that changes them. On Postgres each transaction has a
    mark of its own: a shared one would make writers wait for each other, and one that stood there
    already would be cleared by a rollup that did not see what it stood for. SQLite has one writer.
    """

    __tablename__ = "dirty_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    mark: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


daily = cast(Table, DailyEarnings.__table__)
monthly = cast(Table, MonthlyEarnings.__table__)
lifetime = cast(Table, LifetimeEarnings.__table__)
platform_days = cast(Table, PlatformDay.__table__)
dirty_days = cast(Table, DirtyDay.__table__)

_OF = "creator_id, source, kind, currency, gross, fee, occurred_at"
_SQLITE_MARK = "INSERT OR IGNORE INTO dirty_days (day, mark) VALUES (date({row}.occurred_at), 0);"
_MARK = (
    "INSERT INTO dirty_days (day, mark) SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date,"
    " pg_current_xact_id()::text::bigint FROM {rows} ON CONFLICT DO NOTHING;"
)
_POSTGRES = (
    # trigger, when, for each, the function's rows
    ("insert", "INSERT", "REFERENCING NEW TABLE AS changed FOR EACH STATEMENT", "changed"),
    ("delete", "DELETE", "REFERENCING OLD TABLE AS changed FOR EACH STATEMENT", "changed"),
    # A column list and a transition table do not go together; what is posted never changes.
    (
        "update",
        f"UPDATE OF {_OF}",
        "FOR EACH ROW",
        "(SELECT OLD.* UNION ALL SELECT NEW.*) AS changed",
    ),
)


def _trigger(verb: str, when: str, each: str, rows: str) -> tuple[str, str]:
    name = f"earnings_dirty_{verb}"
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {_MARK.format(rows=rows)} RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER {when} ON earnings {each} EXECUTE FUNCTION {name}()",
    )


MARKS: Mapping[str, tuple[str, ...]] = {
    "sqlite": (
        "CREATE TRIGGER earnings_dirty_insert AFTER INSERT ON earnings"
        f" BEGIN {_SQLITE_MARK.format(row='NEW')} END",
        "CREATE TRIGGER earnings_dirty_delete AFTER DELETE ON earnings"
        f" BEGIN {_SQLITE_MARK.format(row='OLD')} END",
        f"CREATE TRIGGER earnings_dirty_update AFTER UPDATE OF {_OF} ON earnings"
        f" BEGIN {_SQLITE_MARK.format(row='OLD')} {_SQLITE_MARK.format(row='NEW')} END",
    ),
    "postgresql": tuple(statement for made in _POSTGRES for statement in _trigger(*made)),
}
"""The triggers that mark dirty days, by SQLAlchemy's dialect name."""

on_create(dirty_days, MARKS)
# The triggers stand on both tables: theirs is made last.
dirty_days.add_is_dependent_on(cast(Table, Earning.__table__))

"""Earnings summed up, and which days are out of date. Amounts are minor units, days UTC."""

from __future__ import annotations

from datetime import date
from typing import cast

from sqlalchemy import BigInteger, ForeignKey, Index, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

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

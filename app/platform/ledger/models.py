"""The money ledger: double entry in minor units, with one row per balanced entry."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

CURRENCY_CHECK = "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''"
"""Three lower-case letters, in SQL that works the same on both databases."""

# Prefixes are looked up as ranges, which is only correct where text sorts by its bytes.
_ACCOUNT = String(280).with_variant(String(280, collation="C"), "postgresql")


class Entry(Base):
    """`amount` moves from account `debit` to account `credit`, so that each row is balanced.

    Modelled on TigerBeetle's transfers (https://docs.tigerbeetle.com/reference/transfer). Triggers
    in the migrations refuse updates and deletions. (kind, ref) identifies the cause, once per pair
    of accounts.
    """

    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    kind: Mapped[str] = mapped_column(String(40))
    ref: Mapped[str] = mapped_column(String(255))
    debit: Mapped[str] = mapped_column(_ACCOUNT)
    credit: Mapped[str] = mapped_column(_ACCOUNT)
    currency: Mapped[str] = mapped_column(String(3))
    amount: Mapped[int] = mapped_column(BigInteger)
    """Minor units."""
    created_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("kind", "ref", "debit", "credit", "currency"),
        # The cast refuses values that SQLite accepts in an integer column: 1.5, or text.
        CheckConstraint("amount > 0 AND amount = CAST(amount AS BIGINT)", name="amount_positive"),
        CheckConstraint("debit <> credit", name="two_accounts"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        # A balance needs two ranges, each of which is read from its index alone.
        Index("ix_entries_debit", "debit", "currency", "amount"),
        Index("ix_entries_credit", "credit", "currency", "amount"),
    )

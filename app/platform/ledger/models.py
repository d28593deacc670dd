"""The money ledger: double entry in minor units, one row per balanced entry."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

CURRENCY_CHECK = "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''"
"""Three lower-case letters, in SQL that both databases read alike."""

# Prefixes are looked up by range, which is only right where text sorts by its bytes.
_ACCOUNT = String(280).with_variant(String(280, collation="C"), "postgresql")


class Entry(Base):
    """`amount` moves from account `debit` to account `credit`: a row is balanced by its shape.

    After TigerBeetle's transfers (https://docs.tigerbeetle.com/reference/transfer). Never updated,
    never deleted: the migrations' triggers refuse it. (kind, ref) says what caused it, once per
    pair of accounts.
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
        # The cast refuses what SQLite would keep in an integer column: 1.5, or text.
        CheckConstraint("amount > 0 AND amount = CAST(amount AS BIGINT)", name="amount_positive"),
        CheckConstraint("debit <> credit", name="two_accounts"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        # A balance is two ranges, each answered from its index alone.
        Index("ix_entries_debit", "debit", "currency", "amount"),
        Index("ix_entries_credit", "credit", "currency", "amount"),
    )

"""Sales, and what takes them back, as another program of the platform writes them; posted at once.

Amounts are minor units. Nothing is checked but by the database.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select

from app.platform.db import Tx, connection_of
from app.platform.earnings.models import Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import balances


def a_creator(id_: str, /, **change: Any) -> dict[str, Any]:
    """The row of a creator who may be paid, but for what is changed."""
    return {
        "id": id_,
        "name": "Ana",
        "email": "ana@example.com",
        "country": "US",
        "currency": "usd",
        "stripe_account_id": f"acct_{id_}",
        "payouts_enabled": True,
        "transfers_active": True,
        "disabled_reason": None,
        "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        **change,
    }


@dataclass(frozen=True, slots=True)
class Sale:
    """Something sold: of `gross`, `fee` is the platform's and the rest the creator's."""

    id: str
    creator_id: str
    source: str
    currency: str
    gross: int
    fee: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a sale, or a part of it, later."""

    id: str
    sale_id: str
    currency: str
    gross: int
    fee: int
    occurred_at: datetime


def record_sale(tx: Tx, sale: Sale) -> None:
    connection_of(tx).execute(insert(Earning).values(**asdict(sale), kind=EarningKind.EARNING))
    post_earnings(tx)


def record_change(tx: Tx, change: Change, kind: EarningKind) -> None:
    row = asdict(change)
    whose = select(Earning.creator_id, Earning.source).where(Earning.id == row["sale_id"])
    sale = connection_of(tx).execute(whose).one()
    row |= {"refund_of": row.pop("sale_id"), "kind": kind, **sale._mapping}
    connection_of(tx).execute(insert(Earning).values(**row))
    post_earnings(tx)


def balance(tx: Tx, account: str, currency: str) -> int:
    """Credits − debits of one account, minor units."""
    b = balances(account).c
    chosen = select(b.amount).where(b.account == account, b.currency == currency)
    return connection_of(tx).scalar(chosen) or 0

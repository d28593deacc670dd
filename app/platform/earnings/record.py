"""Sales, refunds and disputes as they happen: each written and posted in the caller's transaction.

An id stands for one thing: the same again changes nothing, anything else under it is refused. What
is refused wrote nothing. Amounts are minor units.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select

from app.platform import currencies
from app.platform.earnings.models import Creator, Earning, EarningKind, earnings
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import COUNTED, Tx, connection_of
from app.switchyard.clock import as_utc
from app.switchyard.db import INSERT
from app.switchyard.errors import BadInput


class EarningRefused(BadInput):
    """A sale, refund or dispute that makes no sense; nothing was written."""

    title = "Earning refused"


@dataclass(frozen=True, slots=True)
class Sale:
    """Something sold: of `gross`, `fee` is the platform's and the rest the creator's."""

    id: str
    creator_id: str
    source: str
    """tips, subscriptions, calls, media, referrals, …"""
    currency: str
    gross: int
    fee: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a sale, or a part of it, later: of `gross`, `fee` is the platform's and the
    rest the creator's to give back, or to have again."""

    id: str
    sale_id: str
    currency: str
    gross: int
    fee: int
    occurred_at: datetime


def record_sale(tx: Tx, sale: Sale) -> bool:
    """Record a sale; whether it was new. Raises BadInput."""
    _check(sale)
    _text("creator", sale.creator_id, 64)
    _text("source", sale.source, 40)
    row = _row(sale, EarningKind.EARNING, sale.creator_id, sale.source)
    if _known(tx, row):
        return False
    creator = select(Creator.id).where(Creator.id == sale.creator_id)
    if connection_of(tx).scalar(creator) is None:
        raise EarningRefused(f"sale {sale.id}: no creator {sale.creator_id!r}")
    return _write(tx, row)


def record_refund(tx: Tx, change: Change) -> bool:
    """Take (part of) a sale back from creator and platform; whether it was new. Raises BadInput."""
    return _record(tx, change, EarningKind.REFUND)


def record_dispute(tx: Tx, change: Change) -> bool:
    """The fan's bank took (part of) a sale back; whether it was new. Raises BadInput."""
    return _record(tx, change, EarningKind.DISPUTE)


def record_dispute_won(tx: Tx, change: Change) -> bool:
    """The bank gave back (part of) what it took; whether it was new. Raises BadInput."""
    return _record(tx, change, EarningKind.DISPUTE_WON)


def _record(tx: Tx, change: Change, kind: EarningKind) -> bool:
    _check(change)
    _text("sale", change.sale_id, 64)
    # Locked: two refunds at once must not give back more than the sale brought.
    found = (
        select(Earning.creator_id, Earning.source, Earning.currency, Earning.gross, Earning.fee)
        .where(Earning.id == change.sale_id, Earning.kind == EarningKind.EARNING)
        .with_for_update()
    )
    sale = connection_of(tx).execute(found).one_or_none()
    if sale is None:
        raise EarningRefused(f"{kind} {change.id}: no sale {change.sale_id!r}")
    row = _row(change, kind, sale.creator_id, sale.source, change.sale_id)
    if _known(tx, row):
        return False
    if sale.currency != change.currency:
        raise EarningRefused(
            f"{kind} {change.id}: sale {change.sale_id} is in {sale.currency},"
            f" not {change.currency}"
        )
    done = _done(tx, change.sale_id)
    lost = done[EarningKind.DISPUTE] - done[EarningKind.DISPUTE_WON]
    if kind == EarningKind.DISPUTE_WON:
        if not lost.gross:
            raise EarningRefused(f"{kind} {change.id}: sale {change.sale_id} has no open dispute")
        most, there, share = lost, "is in dispute", lost.share
    else:
        # A platform that keeps its fee may take more from the creator than their share.
        most = _Sum(sale.gross, sale.fee) - lost - done[EarningKind.REFUND]
        there, share = "is left", most.gross
    wanted = _Sum(change.gross, change.fee)
    if wanted.gross > most.gross or wanted.fee > most.fee or wanted.share > share:
        raise EarningRefused(
            f"{kind} {change.id}: {wanted.gross} {change.currency} (fee {wanted.fee}) of sale"
            f" {change.sale_id}, of which {most.gross} (fee {most.fee}) {there}"
        )
    return _write(tx, row)


class _Sum(NamedTuple):
    gross: int = 0
    fee: int = 0

    @property
    def share(self) -> int:
        return self.gross - self.fee

    def __sub__(self, other: _Sum) -> _Sum:
        return _Sum(self.gross - other.gross, self.fee - other.fee)


def _done(tx: Tx, sale_id: str) -> defaultdict[str, _Sum]:
    """What became of the sale so far, by kind."""
    sums = select(Earning.kind, func.sum(Earning.gross), func.sum(Earning.fee))
    rows = connection_of(tx).execute(
        sums.where(Earning.refund_of == sale_id).group_by(Earning.kind)
    )
    return defaultdict(_Sum, {kind: _Sum(int(gross), int(fee)) for kind, gross, fee in rows})


def _row(
    given: Sale | Change, kind: EarningKind, creator: str, source: str, sale: str | None = None
) -> dict[str, Any]:
    return {
        "id": given.id,
        "creator_id": creator,
        "source": source,
        "kind": kind.value,
        "currency": given.currency,
        "gross": given.gross,
        "fee": given.fee,
        "refund_of": sale,
        "occurred_at": as_utc(given.occurred_at),
    }


def _known(tx: Tx, row: dict[str, Any]) -> bool:
    columns = [earnings.c[name] for name in row]
    found = connection_of(tx).execute(select(*columns).where(Earning.id == row["id"])).one_or_none()
    if found is None:
        return False
    for name, there in found._mapping.items():
        if there != row[name]:
            raise EarningRefused(
                f"{row['kind']} {row['id']} is recorded with {name} {there}, not {row[name]}"
            )
    return True


def _write(tx: Tx, row: dict[str, Any]) -> bool:
    connection = connection_of(tx)
    insert = INSERT[connection.dialect.name](earnings).values(row).on_conflict_do_nothing()
    if not connection.execute(insert, execution_options=COUNTED).rowcount:
        # Another transaction was first, with this or with something else.
        return not _known(tx, row)
    post_earnings(tx, only=row["id"])
    return True


def _check(given: Sale | Change) -> None:
    _text("id", given.id, 64)
    currencies.unit(given.currency)
    currencies.whole("gross", given.gross)
    currencies.whole("fee", given.fee, least=0)
    if given.fee > given.gross:
        raise EarningRefused(
            f"{given.id}: a fee of {given.fee} is more than {given.gross}, the gross"
        )


def _text(name: str, value: str, most: int) -> None:
    if not 0 < len(value) <= most or not value.isprintable():
        raise EarningRefused(f"{name} must be 1 to {most} printable characters, not {value!r}")

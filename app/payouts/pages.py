"""The payouts of a pay day, page by page and summed up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, overload

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import Session

from app.jobs.context import Context
from app.ledger.postings import balanced, trial_balance
from app.payouts.models import Payout

PAGE_SIZE = 50


def page_ends(tx: Session, payout_date: date, size: int = PAGE_SIZE) -> list[str]:
    """The last payout id of each page, by id."""
    place = func.row_number().over(order_by=Payout.id).label("place")
    last = func.max(Payout.id).over().label("last")
    rows = select(Payout.id, place, last).where(Payout.payout_date == payout_date).subquery()
    ends = select(rows.c.id).where((rows.c.place % size == 0) | (rows.c.id == rows.c.last))
    return list(tx.scalars(ends.order_by(rows.c.place)))


class Page(Sequence[dict[str, Any]]):
    """The orders of one page: payout ids in (after, last].

    Read at first use, which a step that is done with never makes: a body that is run again reads
    no page twice.
    """

    def __init__(self, ctx: Context, payout_date: date, after: str, last: str) -> None:
        self._ctx = ctx
        self._within = (
            Payout.payout_date == payout_date,
            Payout.id > after,
            Payout.id <= last,
        )
        self._rows: list[dict[str, Any]] | None = None

    def _read(self) -> list[dict[str, Any]]:
        if self._rows is None:
            with self._ctx.transaction() as tx:
                found = tx.scalars(select(Payout).where(*self._within).order_by(Payout.id))
                self._rows = [order(payout) for payout in found]
        return self._rows

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._read()[index]


def order(payout: Payout) -> dict[str, Any]:
    """The payload of `process-single-payout` for a payout."""
    return {
        "payoutId": payout.id,
        "creatorId": payout.creator_id,
        "amount": payout.amount,
        "stripeAccountId": payout.destination,
        "currency": payout.currency,
    }


def summary(tx: Session, payout_date: date) -> dict[str, Any]:
    """How the pay day's payouts stand, by status and currency (minor units), and the books."""
    columns = (Payout.status, Payout.currency)
    total = cast(func.sum(Payout.amount), BigInteger)
    rows = tx.execute(
        select(*columns, func.count(), total)
        .where(Payout.payout_date == payout_date)
        .group_by(*columns)
        .order_by(*columns)
    )
    return {
        "payoutDate": payout_date.isoformat(),
        "totals": [
            {"status": status, "currency": currency, "count": count, "amount": amount}
            for status, currency, count, amount in rows
        ],
        "ledgerBalanced": balanced(trial_balance(tx)),
    }

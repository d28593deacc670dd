"""Reads what a statement is made from: the entries since the previous one. Times are in UTC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, String, and_, cast, func, literal, null, select, union_all
from sqlalchemy.orm import aliased

from app.platform.db import Tx, connection_of
from app.platform.earnings.models import Earning as X
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import CREATOR
from app.platform.statements.models import Statement as S

CLOSING = "closing"
"""The kind of the rows that are balances and not entries."""


def bounds(month: date) -> tuple[datetime, datetime]:
    """The beginning of the month and that of the next one."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, (start + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True, slots=True)
class Previous:
    """A creator's last statement."""

    id: str
    end: datetime
    closing: Mapping[str, int]
    """By currency."""


def previous(tx: Tx, creator_ids: Sequence[str]) -> dict[str, Previous]:
    """The last statement of each of these creators who have one."""
    other = aliased(S)
    newest = select(func.max(other.month)).where(other.creator_id == S.creator_id)
    chosen = select(S.creator_id, S.id, S.month, S.document).where(
        S.creator_id.in_(creator_ids), S.month == newest.scalar_subquery()
    )
    return {
        row.creator_id: Previous(
            row.id,
            bounds(row.month)[1],
            {one["currency"]: one["closing"] for one in json.loads(row.document)["currencies"]},
        )
        for row in connection_of(tx).execute(chosen)
    }


def movements(tx: Tx, creator_id: str, since: datetime, end: datetime) -> list[Any]:
    """The entries in [since, end) with their earnings, sales without a share for the creator, and
    the balances at `end`. All are read by one SELECT, and so at the same moment."""
    account, same = CREATOR + creator_id, (E.currency, E.created_at, E.kind, E.ref)
    entries = (
        select(other.label("other"), amount.label("amount"), *same)
        .where(mine == account)
        .where(E.created_at < end)
        for mine, other, amount in ((E.credit, E.debit, E.amount), (E.debit, E.credit, -E.amount))
    )
    # The ledger only has the fees of these sales.
    for_nothing = select(
        null(), literal(0, BigInteger), X.currency, X.occurred_at, X.kind, X.id
    ).where(X.posted, X.gross == X.fee, X.creator_id == creator_id, X.occurred_at < end)
    b = union_all(*entries, for_nothing).subquery().c
    lines = (
        select(*b, X.source, X.gross, X.fee)
        .join(X, and_(X.id == b.ref, X.kind == b.kind), isouter=True)
        .where(b.created_at >= since)
    )
    total, rest = cast(func.sum(b.amount), BigInteger), [null()] * 4
    balances = select(null(), total, b.currency, null(), literal(CLOSING, String), *rest)
    every = select(union_all(lines, balances.group_by(b.currency)).subquery())
    return list(connection_of(tx).execute(every))

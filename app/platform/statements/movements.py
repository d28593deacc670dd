"""What a statement is made from: the entries of the ledger that no earlier one has. Times UTC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, String, and_, cast, func, literal, null, or_, select, union_all

from app.platform.db import AnySelect, Tx, connection_of
from app.platform.earnings.models import Earning as X
from app.platform.earnings.posting import FEE_KINDS
from app.platform.ledger.models import Entry as E
from app.platform.ledger.postings import creator_account
from app.platform.statements.models import Statement as S

OPENING, CLOSING, NEWEST = "opening", "closing", "newest"
"""Kinds of rows that are no entries: a balance, and the id of the ledger's newest entry."""
_NO_ENTRY = 2**63 - 1
"""Above every entry's id."""


def bounds(month: date) -> tuple[datetime, datetime]:
    """When the month begins and when the next one does."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, (start + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True, slots=True)
class Previous:
    """A creator's last statement."""

    id: str
    end: datetime
    last_entry: int
    """The ledger's newest when it was made: of its time, what has a higher id came late."""
    closing: Mapping[str, int]
    """By currency."""


def previous(tx: Tx, creator_ids: Sequence[str]) -> dict[str, Previous]:
    """The last statement of each of these creators that has any."""
    newest = (
        select(S.creator_id, func.max(S.month).label("month"))
        .where(S.creator_id.in_(creator_ids))
        .group_by(S.creator_id)
        .subquery()
    )
    same = and_(S.creator_id == newest.c.creator_id, S.month == newest.c.month)
    chosen = select(S.creator_id, S.id, S.month, S.last_entry, S.document).join(newest, same)
    return {
        row.creator_id: Previous(
            row.id,
            bounds(row.month)[1],
            row.last_entry,
            {one["currency"]: one["closing"] for one in json.loads(row.document)["currencies"]},
        )
        for row in connection_of(tx).execute(chosen)
    }


def movements(tx: Tx, creator_id: str, last: Previous | None, month: date) -> list[Any]:
    """By one SELECT, so that all is of one moment: each entry that is not stated yet with its
    earning, sales of which nothing is the creator's, and the balances when the month ends."""
    (start, end), account = bounds(month), creator_account(creator_id)
    if last:
        since, seen = last.end, last.last_entry
    else:  # all of the past was known when others had their statements
        others = connection_of(tx).scalar(newest_before(month))
        since, seen = start, _NO_ENTRY if others is None else others
    same = (E.currency, E.created_at, E.kind, E.ref, E.id)
    entries = (
        select(other.label("other"), amount.label("amount"), *same)
        .where(mine == account)
        .where(E.created_at < end)
        for mine, other, amount in (
            (E.credit, E.debit, E.amount),
            (E.debit, E.credit, -E.amount),
        )
    )
    # Of these the ledger has the fee alone.
    its_fee = and_(E.ref == X.id, E.kind.in_(FEE_KINDS))
    for_nothing = (
        select(null(), literal(0, BigInteger), X.currency, X.occurred_at, X.kind, X.id, E.id)
        .join(E, its_fee)
        .where(X.posted, X.gross == X.fee, X.creator_id == creator_id, X.occurred_at < end)
    )
    b = union_all(*entries, for_nothing).subquery().c
    lines = (
        select(*b, X.source, X.gross, X.fee)
        .join(X, and_(X.id == b.ref, X.kind == b.kind), isouter=True)
        .where(or_(b.created_at >= since, b.id > seen))
    )
    total, rest = cast(func.sum(b.amount), BigInteger), [null()] * 5
    balances = select(null(), total, b.currency, null(), literal(CLOSING, String), *rest)
    newest = select(null(), func.max(E.id), null(), null(), literal(NEWEST), *rest)
    every = select(union_all(lines, balances.group_by(b.currency), newest).subquery())
    return list(connection_of(tx).execute(every))


def newest_before(month: date) -> AnySelect:
    """The ledger's newest entry when statements of an earlier month were made last."""
    return select(func.max(S.last_entry)).where(S.month < month)

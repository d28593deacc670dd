"""Earnings, and what takes them back, into the ledger: by sets, and each once."""

from __future__ import annotations

import sqlalchemy as sa

from app.platform.db import AnySelect, Tx, connection_of
from app.platform.earnings.models import Earning, EarningKind
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CASH, CREATOR, FEES, EntryKind, post_select

SHARE_KINDS = tuple(EntryKind(kind) for kind in EarningKind)
"""The ledger's entries that are a creator's share, named as what they are posted from."""
FEE_KINDS = (
    *(EntryKind.FEE, EntryKind.FEE_REFUND),
    *(EntryKind.FEE_DISPUTE, EntryKind.FEE_DISPUTE_WON),
)
"""The ledger's entries that are the platform's fee."""
TAKING = (EarningKind.REFUND, EarningKind.DISPUTE)
"""What takes a sale back; the other kinds bring money in."""


def post_earnings(tx: Tx) -> int:
    """Post what is not in the ledger yet; how many entries were new.

    A sale, or a dispute that was won, brings cash in: the creator's share is owed to them, the fee
    is the platform's. A refund or a dispute takes both back. What is posted already costs nothing,
    however much of it there is.
    """
    waiting, kind = sa.not_(Earning.posted), Earning.kind.expression
    fee_kind = sa.case(
        (kind == EarningKind.EARNING, sa.literal(EntryKind.FEE.value)), else_="fee_" + kind
    )
    creator, fees = sa.literal(CREATOR) + Earning.creator_id, sa.literal(FEES, sa.String)
    rows = sa.union_all(
        _flows(kind, creator, Earning.gross - Earning.fee).where(waiting),
        _flows(fee_kind, fees, Earning.fee.expression).where(waiting),
    ).subquery()
    new = post_select(tx, sa.select(*rows.c))
    # Only what has its entries: another transaction's earning may have come in since they were
    # written.
    entries = sa.exists().where(Entry.kind.in_([*SHARE_KINDS, *FEE_KINDS]), Entry.ref == Earning.id)
    connection_of(tx).execute(sa.update(Earning).where(waiting, entries).values(posted=sa.true()))
    return new


def _flows(
    kind: sa.ColumnElement[str], whose: sa.ColumnElement[str], amount: sa.ColumnElement[int]
) -> AnySelect:
    cash, taking = sa.literal(CASH, sa.String), Earning.kind.in_(TAKING)
    return sa.select(
        kind.label("kind"),
        Earning.id.label("ref"),
        sa.case((taking, whose), else_=cash).label("debit"),
        sa.case((taking, cash), else_=whose).label("credit"),
        Earning.currency,
        amount.label("amount"),
        Earning.occurred_at,
    ).where(amount > 0)

"""Posts earnings, refunds and disputes to the ledger, in sets and each once."""

from __future__ import annotations

import sqlalchemy as sa

from app.platform.db import AnySelect, Tx, connection_of
from app.platform.earnings.models import Earning, EarningKind
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CASH, CREATOR, FEES, EntryKind, post_select

SHARE_KINDS = tuple(EntryKind(kind) for kind in EarningKind)
"""The kinds of entries for a creator's share. They have the names of the earnings' kinds."""
FEE_KINDS = tuple(kind for kind in EntryKind if kind.startswith("fee"))
"""The kinds of entries for the platform's fee."""
TAKING = (EarningKind.REFUND, EarningKind.DISPUTE)
"""The kinds that take money back. The others bring money in."""


def post_earnings(tx: Tx) -> int:
    """Post the earnings that are not in the ledger yet. Returns how many entries were new.

    A sale or a won dispute brings cash in: the share is owed to the creator, and the fee is the
    platform's. A refund or a dispute takes both back. Earnings already posted are not read.
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
    # Only those with entries: another transaction may have added earnings in the meantime.
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

"""Earnings, and what takes them back, into the ledger: by sets, and each once."""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    String,
    case,
    exists,
    literal,
    not_,
    select,
    true,
    union_all,
    update,
)

from app.platform.earnings.models import Earning, EarningKind
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import (
    CASH,
    CREATOR,
    FEES,
    AnySelect,
    EntryKind,
    Tx,
    connection_of,
    post_select,
)

_SHARES = {
    EarningKind.EARNING: EntryKind.EARNING,
    EarningKind.REFUND: EntryKind.REFUND,
    EarningKind.DISPUTE: EntryKind.DISPUTE,
    EarningKind.DISPUTE_WON: EntryKind.DISPUTE_WON,
}
_FEES = {
    EarningKind.EARNING: EntryKind.FEE,
    EarningKind.REFUND: EntryKind.FEE_REFUND,
    EarningKind.DISPUTE: EntryKind.FEE_DISPUTE,
    EarningKind.DISPUTE_WON: EntryKind.FEE_DISPUTE_WON,
}
FEE_KINDS = tuple(_FEES.values())
"""The ledger's entries that are the platform's fee."""
TAKING = (EarningKind.REFUND, EarningKind.DISPUTE)
"""What takes a sale back; the other kinds bring money in."""


def post_earnings(tx: Tx) -> int:
    """Post what is not in the ledger yet; how many entries were new.

    A sale, or a dispute that was won, brings cash in: the creator's share is owed to them, the fee
    is the platform's. A refund or a dispute takes both back. What is posted already costs nothing,
    however much of it there is.
    """
    waiting = not_(Earning.posted)
    share, fee = Earning.gross - Earning.fee, Earning.fee.expression
    creator, fees = literal(CREATOR) + Earning.creator_id, literal(FEES, String)
    rows = union_all(
        _flows(waiting, _SHARES, creator, share), _flows(waiting, _FEES, fees, fee)
    ).subquery()
    new = post_select(tx, select(*rows.c))
    # Only what has its entries: another transaction's earning may have come in since they were
    # written.
    entries = exists().where(
        Entry.kind.in_([*_SHARES.values(), *FEE_KINDS]), Entry.ref == Earning.id
    )
    connection_of(tx).execute(update(Earning).where(waiting, entries).values(posted=true()))
    return new


def _flows(
    waiting: ColumnElement[bool],
    kinds: dict[EarningKind, EntryKind],
    whose: ColumnElement[str],
    amount: ColumnElement[int],
) -> AnySelect:
    cash = literal(CASH, String)
    taking = Earning.kind.in_(TAKING)
    named = {str(what): literal(kind.value, String) for what, kind in kinds.items()}
    return select(
        case(named, value=Earning.kind).label("kind"),
        Earning.id.label("ref"),
        case((taking, whose), else_=cash).label("debit"),
        case((taking, cash), else_=whose).label("credit"),
        Earning.currency,
        amount.label("amount"),
        Earning.occurred_at,
    ).where(waiting, amount > 0)

"""Earnings and refunds into the ledger, by one statement."""

from __future__ import annotations

from sqlalchemy import ColumnElement, String, literal, select, union_all
from sqlalchemy.orm import InstrumentedAttribute

from app.earnings.models import Earning, EarningKind
from app.ledger.postings import CASH, CREATOR, FEES, AnySelect, EntryKind, Tx, post_select


def post_earnings(tx: Tx) -> int:
    """Post every earning and refund that is not in the ledger yet; how many entries were new.

    An earning brings cash in: the creator's share is owed to them, the fee is the platform's. A
    refund takes both back.
    """
    share, fee = Earning.gross - Earning.fee, Earning.fee
    creator = literal(CREATOR) + Earning.creator_id
    cash, fees = literal(CASH, String), literal(FEES, String)
    flows = union_all(
        _flow(EarningKind.EARNING, EntryKind.EARNING, cash, creator, share),
        _flow(EarningKind.EARNING, EntryKind.FEE, cash, fees, fee),
        _flow(EarningKind.REFUND, EntryKind.REFUND, creator, cash, share),
        _flow(EarningKind.REFUND, EntryKind.FEE_REFUND, fees, cash, fee),
    ).subquery()
    return post_select(tx, select(*flows.c))


def _flow(
    what: EarningKind,
    kind: EntryKind,
    debit: ColumnElement[str],
    credit: ColumnElement[str],
    amount: ColumnElement[int] | InstrumentedAttribute[int],
) -> AnySelect:
    return select(
        literal(kind.value, String).label("kind"),
        Earning.id.label("ref"),
        debit.label("debit"),
        credit.label("credit"),
        Earning.currency,
        amount.label("amount"),
        Earning.occurred_at,
    ).where(Earning.kind == what, amount > 0)

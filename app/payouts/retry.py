"""Payouts to be tried again: what made them fail may have passed, or the run that paid them ended.

Page by page, each page one transaction. Whoever is requested anew has the money set aside anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.earnings.models import Creator
from app.ledger.models import Entry
from app.ledger.postings import (
    CREATOR,
    HOLD,
    AnySelect,
    EntryKind,
    Posting,
    creator_account,
    hold_account,
    post,
)
from app.payouts.attempts import PayoutMoved
from app.payouts.eligibility import gate
from app.payouts.models import Payout as P
from app.payouts.models import PayoutAttempt as A
from app.payouts.models import PayoutStatus, payouts
from app.payouts.pages import order

MAX_ATTEMPTS = 5
"""Of one payout, all runs together."""
PAGE_SIZE = 200
FAILED_WITHIN = timedelta(days=30)
SENDING_STALE = timedelta(minutes=30)
"""Longer than a run tries: its five attempts are over after 13 minutes."""
REQUESTED_STALE = timedelta(hours=3)
"""Longer than a pay day keeps a payout waiting for its turn."""
MAY_PASS = frozenset(
    {
        *("balance_insufficient", "insufficient_funds", "rate_limit", "lock_timeout"),
        *("idempotency_key_in_use", "payouts_limit_exceeded", "transfers_not_allowed"),
        *("payouts_not_allowed", "insufficient_capabilities_for_transfer"),
    }
)
"""Stripe's codes (https://docs.stripe.com/error-codes) whose cause can go away; the account's own
are tried again once its gates pass. Any other needs a person."""


class Left(StrEnum):
    """Why a payout is not tried again, besides Stripe's own code and eligibility.LeftOut."""

    ATTEMPTS_USED_UP = "attempts_used_up"
    DESTINATION_CHANGED = "destination_changed"
    """The creator has another Stripe account now: the next pay day pays to that."""
    BALANCE_TOO_LOW = "balance_too_low"
    """The creator's balance does not cover it any more."""


def reopen(tx: Session, after: str, payout_date: date | None, now: datetime) -> dict[str, Any]:
    """The next page of payouts with ids past `after`, of one pay day or of the last 30 days.

    Returns `orders` to be paid, the number `left` by reason, and the page's `last` id (None: there
    are no more). A failed one whose money went into a later pay day's payout is not looked at.
    Raises PayoutMoved where another process moved one meanwhile; nothing is changed then.
    """
    wanted = _wanted(payout_date, now)
    page = tx.execute(
        select(P.id, P.creator_id).where(wanted, P.id > after).order_by(P.id).limit(PAGE_SIZE)
    ).all()
    # As a pay day and a manual payout do: nobody else spends these balances meanwhile.
    creators = Creator.id.in_({row.creator_id for row in page})
    tx.execute(select(Creator.id).where(creators).order_by(Creator.id).with_for_update())
    orders: list[dict[str, Any]] = []
    again: list[tuple[P, int]] = []
    left: Counter[str] = Counter()
    purses: dict[tuple[str, str], int] = {}
    for payout, tries, owed, why in tx.execute(_judged(wanted, [row.id for row in page])):
        if payout.status == PayoutStatus.FAILED:
            purse = (payout.creator_id, payout.currency)
            purses.setdefault(purse, owed)
            if why is None and payout.amount > purses[purse]:
                why = Left.BALANCE_TOO_LOW.value
            if why is None:
                purses[purse] -= payout.amount
                again.append((payout, tries))
        # A last attempt without an outcome still has to get one.
        elif tries >= MAX_ATTEMPTS + (payout.status == PayoutStatus.SENDING):
            why = Left.ATTEMPTS_USED_UP.value
        else:
            why = None
        if why is None:
            orders.append(order(payout))
        else:
            left[why] += 1
    _request(tx, again, now)
    return {
        "orders": orders,
        "left": dict(left),
        "last": page[-1].id if len(page) == PAGE_SIZE else None,
    }


def _wanted(payout_date: date | None, now: datetime) -> ColumnElement[bool]:
    later = aliased(P)
    superseded = select(literal(1)).where(
        later.creator_id == P.creator_id,
        later.currency == P.currency,
        later.payout_date.is_not(None),
        later.requested_at > P.settled_at,
    )
    told = select(func.max(A.updated_at)).where(A.payout_id == P.id)
    hold = literal(HOLD) + P.id
    held = select(func.max(Entry.created_at)).where(
        Entry.kind == EntryKind.HOLD, Entry.credit == hold, Entry.currency == P.currency
    )
    stands = or_(
        and_(
            P.status == PayoutStatus.FAILED,
            P.settled_at >= now - FAILED_WITHIN if payout_date is None else true(),
            ~superseded.exists(),
        ),
        and_(P.status == PayoutStatus.SENDING, told.scalar_subquery() <= now - SENDING_STALE),
        and_(P.status == PayoutStatus.REQUESTED, held.scalar_subquery() <= now - REQUESTED_STALE),
    )
    return stands if payout_date is None else and_(stands, P.payout_date == payout_date)


def _judged(wanted: ColumnElement[bool], ids: Sequence[str]) -> AnySelect:
    """Payout, attempts so far, the creator's balance, and why a failed one is left (or null)."""
    latest = select(func.max(A.n)).where(A.payout_id == P.id).scalar_subquery()
    tries = func.coalesce(latest, 0)
    owed = cast(_sum(Entry.credit) - _sum(Entry.debit), BigInteger)
    why = case(
        (P.reason.not_in(MAY_PASS), P.reason),
        (tries >= MAX_ATTEMPTS, literal(Left.ATTEMPTS_USED_UP.value)),
        (P.destination != Creator.stripe_account_id, literal(Left.DESTINATION_CHANGED.value)),
        else_=gate(),
    )
    return (
        select(P, tries, owed, why)
        .join(Creator, Creator.id == P.creator_id)
        .where(wanted, P.id.in_(ids))
        .order_by(P.id)
    )


def _sum(side: InstrumentedAttribute[str]) -> ColumnElement[int]:
    account = literal(CREATOR) + P.creator_id
    total = select(func.coalesce(func.sum(Entry.amount), 0))
    return total.where(side == account, Entry.currency == P.currency).scalar_subquery()


def _request(tx: Session, again: Sequence[tuple[P, int]], now: datetime) -> None:
    """Failed → requested, and the money set aside under the next attempt's name."""
    if not again:
        return
    moved = tx.connection().execute(
        update(payouts)
        .where(P.id.in_([payout.id for payout, _ in again]), P.status == PayoutStatus.FAILED)
        .values(status=PayoutStatus.REQUESTED, reason=None, settled_at=None)
    )
    if moved.rowcount != len(again):
        raise PayoutMoved("a failed payout was moved by another process")
    post(
        tx,
        [
            Posting(
                EntryKind.HOLD,
                f"{payout.id}-{tries + 1}",
                creator_account(payout.creator_id),
                hold_account(payout.id),
                payout.currency,
                payout.amount,
                now,
            )
            for payout, tries in again
        ],
    )

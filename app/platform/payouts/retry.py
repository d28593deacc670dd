"""Payouts to retry: their cause of failure may be gone, or the run that paid them has ended.

Each page is one transaction. After a refused transfer, the money is set aside again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select
from sqlalchemy.orm import Session, aliased

from app.platform.earnings.models import Creator
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import EntryKind, Posting, post
from app.platform.payouts.attempts import KEY_EXPIRED
from app.platform.payouts.eligibility import gate, payable
from app.platform.payouts.legs import TRANSFER, booked
from app.platform.payouts.models import LegName, Method, PayoutStatus
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutAttempt as A

MAX_ATTEMPTS = 5
"""For one leg of a payout, over all runs. Attempts that failed for lack of the platform's money, or
whose key expired, do not count. Payouts without an outcome are continued however many there were.
"""
PAGE_SIZE = 200
FAILED_WITHIN = timedelta(days=30)
SENDING_STALE = timedelta(minutes=30)
"""A payout that is being sent is taken over after this long without a change, even from a run that
waits for its next round. Whichever run comes first continues it, under the same key."""
READY_STALE = timedelta(hours=3)
"""The same for a payout that is waiting to be sent. A pay day's pages are long over by then."""
MAY_PASS = frozenset(
    {
        *("balance_insufficient", "insufficient_funds", "rate_limit", "lock_timeout"),
        *("idempotency_key_in_use", "payouts_limit_exceeded", "transfers_not_allowed"),
        *("payouts_not_allowed", "insufficient_capabilities_for_transfer"),
    }
)
"""Stripe's codes (https://docs.stripe.com/error-codes) for refused transfers that can be retried.
Those about the account are retried once its gates pass. Any other code needs a person."""
_S = PayoutStatus
_BANK_LEG = (_S.TRANSFERRED, _S.PAYING, _S.BANK_FAILED)
_AGAIN: dict[str, PayoutStatus] = {_S.FAILED: _S.REQUESTED, _S.BANK_FAILED: _S.TRANSFERRED}
NO_INSTANT = (
    *("instant_payouts_unsupported", "instant_payouts_config_disabled"),
    "instant_payouts_currency_disabled",
)
"""Stripe's codes for an account without instant payouts. The retry uses the standard method."""


class Left(StrEnum):
    """Why a payout is not retried, besides Stripe's own codes and eligibility.LeftOut."""

    ATTEMPTS_USED_UP = "attempts_used_up"
    DESTINATION_CHANGED = "destination_changed"
    """The creator has another Stripe account now, which the next pay day pays."""
    BALANCE_TOO_LOW = "balance_too_low"
    """The creator's balance no longer covers it."""


def reopen(tx: Session, run_id: str, after: str, now: datetime) -> dict[str, Any]:
    """Take charge, as `run_id`, of the next page of payouts to retry with ids past `after`.

    Returns how many were `taken`, the number `left` by reason, and the page's `last` id (None if
    there are no more). A refused payout is skipped once a later pay day has paid the creator.
    """
    wanted = _wanted(now)
    page = tx.execute(
        select(P.id, P.creator_id).where(wanted, P.id > after).order_by(P.id).limit(PAGE_SIZE)
    ).all()
    # Locked, as by a pay day and a manual payout, so that nobody else spends these balances.
    creators = Creator.id.in_({row.creator_id for row in page})
    tx.execute(select(Creator.id).where(creators).order_by(Creator.id).with_for_update())
    chosen = P.id.in_([row.id for row in page])
    tx.execute(select(P.id).where(chosen).order_by(P.id).with_for_update())
    post_earnings(tx)
    tries = _tries(tx, [row.id for row in page])
    standing = select(P, Creator.stripe_account_id, gate()).join(
        Creator, Creator.id == P.creator_id
    )
    taken, again, left = 0, list[Posting](), Counter[str]()
    purses = dict[tuple[str, str], int]()
    for payout, account, shut in tx.execute(standing.where(wanted, chosen).order_by(P.id)).all():
        leg = LegName.BANK if payout.status in _BANK_LEG else LegName.TRANSFER
        last, used = tries.get((payout.id, leg), (0, 0))
        why = _why_left(payout, used, account, shut)
        if payout.status == _S.FAILED and why is None:
            purse = (payout.creator_id, payout.currency)
            if purse not in purses:
                purses[purse] = payable(tx, *purse, now)
            if payout.amount > purses[purse]:
                why = Left.BALANCE_TOO_LOW
            else:
                purses[purse] -= payout.amount
                again.append(booked(EntryKind.HOLD, TRANSFER.key(payout, last + 1), payout, now))
        if why is None:
            if payout.reason in NO_INSTANT:
                payout.method = Method.STANDARD
            payout.status = _AGAIN.get(payout.status, payout.status)
            payout.reason = payout.settled_at = None
            payout.run_id, payout.updated_at = run_id, now
            taken += 1
        else:
            left[str(why)] += 1
    post(tx, again)
    last_id = page[-1].id if len(page) == PAGE_SIZE else None
    return {"taken": taken, "left": dict(left), "last": last_id}


def _wanted(now: datetime) -> ColumnElement[bool]:
    later = aliased(P)
    superseded = select(literal(1)).where(
        later.creator_id == P.creator_id,
        later.currency == P.currency,
        later.payout_date.is_not(None),
        later.requested_at > P.settled_at,
    )
    recent = P.updated_at >= now - FAILED_WITHIN
    return or_(
        and_(P.status == _S.FAILED, recent, ~superseded.exists()),
        and_(P.status == _S.BANK_FAILED, recent),
        and_(P.status.in_([_S.SENDING, _S.PAYING]), P.updated_at <= now - SENDING_STALE),
        and_(P.status.in_([_S.REQUESTED, _S.TRANSFERRED]), P.updated_at <= now - READY_STALE),
    )


def _tries(tx: Session, ids: Sequence[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """By payout and leg: the last attempt's number, and how many count towards MAX_ATTEMPTS."""
    code = func.coalesce(A.code, "")
    short = and_(A.leg == LegName.TRANSFER, code == TRANSFER.no_funds)
    used = func.sum(case((or_(short, code == KEY_EXPIRED), 0), else_=1))
    chosen = select(A.payout_id, A.leg, func.max(A.n), used).where(A.payout_id.in_(ids))
    rows = tx.execute(chosen.group_by(A.payout_id, A.leg))
    return {(row[0], row[1]): (row[2], int(row[3])) for row in rows}


def _why_left(payout: P, used: int, account: str | None, shut: str | None) -> str | None:
    if payout.status not in (_S.FAILED, _S.BANK_FAILED):
        return None
    if payout.status == _S.FAILED and payout.reason and payout.reason not in MAY_PASS:
        return payout.reason
    if used >= MAX_ATTEMPTS:
        return Left.ATTEMPTS_USED_UP
    if account is not None and account != payout.destination:
        return Left.DESTINATION_CHANGED
    return shut

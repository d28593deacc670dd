"""Payouts to be tried again: what made them fail may have passed, or the run that paid them ended.

Page by page, each page one transaction. Whose transfer was refused has the money set aside anew.
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
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.platform.earnings.models import Creator, Earning
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import (
    CREATOR,
    AnySelect,
    EntryKind,
    Posting,
    creator_account,
    hold_account,
    post,
)
from app.platform.payouts.attempts import KEY_EXPIRED
from app.platform.payouts.eligibility import gate, young_sales
from app.platform.payouts.legs import TRANSFER
from app.platform.payouts.models import LegName, Method, PayoutStatus, payouts
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutAttempt as A

MAX_ATTEMPTS = 5
"""Of one leg of a payout, all runs together; what lacked the platform's own money is none, nor is
one whose key expired. What has no outcome yet always has to get one."""
PAGE_SIZE = 200
FAILED_WITHIN = timedelta(days=30)
SENDING_STALE = timedelta(minutes=30)
"""Untouched for so long, what is under way is taken over, also from a run that still waits for its
next round: whoever comes first goes on with it, under the same key."""
READY_STALE = timedelta(hours=3)
"""The same for what waits for its turn: a pay day's pages are long over."""
MAY_PASS = frozenset(
    {
        *("balance_insufficient", "insufficient_funds", "rate_limit", "lock_timeout"),
        *("idempotency_key_in_use", "payouts_limit_exceeded", "transfers_not_allowed"),
        *("payouts_not_allowed", "insufficient_capabilities_for_transfer"),
    }
)
"""Stripe's codes (https://docs.stripe.com/error-codes) of a refused transfer whose cause can go
away; the account's own are tried again once its gates pass. Any other needs a person."""
_S = PayoutStatus
_BANK_LEG = (_S.TRANSFERRED, _S.PAYING, _S.BANK_FAILED)


NO_INSTANT = (
    *("instant_payouts_unsupported", "instant_payouts_config_disabled"),
    "instant_payouts_currency_disabled",
)
"""Stripe's codes for an account that cannot have instant payouts: the next try goes the standard
way."""


class Left(StrEnum):
    """Why a payout is not tried again, besides Stripe's own code and eligibility.LeftOut."""

    ATTEMPTS_USED_UP = "attempts_used_up"
    DESTINATION_CHANGED = "destination_changed"
    """The creator has another Stripe account now: the next pay day pays to that."""
    BALANCE_TOO_LOW = "balance_too_low"
    """The creator's balance does not cover it any more."""


def reopen(
    tx: Session, run_id: str, after: str, payout_date: date | None, now: datetime
) -> dict[str, Any]:
    """Take charge, as `run_id`, of the next page of payouts with ids past `after`.

    Of one pay day or of the last 30 days. Returns how many were `taken`, the number `left` by
    reason, and the page's `last` id (None: there are no more). A refused one whose money went into
    a later pay day's payout is not looked at.
    """
    wanted = _wanted(payout_date, now)
    page = tx.execute(
        select(P.id, P.creator_id).where(wanted, P.id > after).order_by(P.id).limit(PAGE_SIZE)
    ).all()
    # As a pay day and a manual payout do: nobody else spends these balances meanwhile.
    creators = Creator.id.in_({row.creator_id for row in page})
    tx.execute(select(Creator.id).where(creators).order_by(Creator.id).with_for_update())
    chosen = P.id.in_([row.id for row in page])
    tx.execute(select(P.id).where(chosen).order_by(P.id).with_for_update())
    post_earnings(tx)
    taken: list[str] = []
    again: list[Posting] = []
    left: Counter[str] = Counter()
    purses: dict[tuple[str, str], int] = {}
    for payout, tries, owed, why in tx.execute(_judged(and_(wanted, chosen), now)):
        reason = why
        if payout.status == _S.FAILED:
            purse = (payout.creator_id, payout.currency)
            purses.setdefault(purse, owed)
            if reason is None and payout.amount > purses[purse]:
                reason = Left.BALANCE_TOO_LOW.value
            if reason is None:
                purses[purse] -= payout.amount
                again.append(_held(payout, tries + 1, now))
        if reason is None:
            taken.append(payout.id)
        else:
            left[reason] += 1
    _take(tx, run_id, taken, now)
    post(tx, again)
    return {
        "taken": len(taken),
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
    recent = P.updated_at >= now - FAILED_WITHIN if payout_date is None else true()
    stands = or_(
        and_(P.status == _S.FAILED, recent, ~superseded.exists()),
        and_(P.status == _S.BANK_FAILED, recent),
        and_(P.status.in_([_S.SENDING, _S.PAYING]), P.updated_at <= now - SENDING_STALE),
        and_(P.status.in_([_S.REQUESTED, _S.TRANSFERRED]), P.updated_at <= now - READY_STALE),
    )
    return stands if payout_date is None else and_(stands, P.payout_date == payout_date)


def _judged(wanted: ColumnElement[bool], now: datetime) -> AnySelect:
    """Payout, tries of its leg so far, what of the creator's balance is not too young, and why the
    payout is left (or null)."""
    leg = case((P.status.in_(_BANK_LEG), LegName.BANK.value), else_=LegName.TRANSFER.value)
    mine = and_(A.payout_id == P.id, A.leg == leg)
    tries = select(func.coalesce(func.max(A.n), 0)).where(mine).scalar_subquery()
    code = func.coalesce(A.code, "")
    short = and_(A.leg == LegName.TRANSFER, code == TRANSFER.no_funds)
    used = select(func.count()).where(mine, ~short, code != KEY_EXPIRED).scalar_subquery()
    young = young_sales(now).where(
        Earning.creator_id == P.creator_id, Earning.currency == P.currency
    )
    young = young.with_only_columns(young.selected_columns.amount)
    held_back = func.coalesce(young.correlate(P).scalar_subquery(), 0)
    balance = _sum(Entry.credit) - _sum(Entry.debit)
    owed = cast(balance - case((held_back > 0, held_back), else_=0), BigInteger)
    failed = P.status.in_([_S.FAILED, _S.BANK_FAILED])
    why = case(
        (~failed, null()),
        (and_(P.status == _S.FAILED, P.reason.not_in(MAY_PASS)), P.reason),
        (used >= MAX_ATTEMPTS, literal(Left.ATTEMPTS_USED_UP.value)),
        (P.destination != Creator.stripe_account_id, literal(Left.DESTINATION_CHANGED.value)),
        else_=gate(),
    )
    return (
        select(P, tries, owed, why)
        .join(Creator, Creator.id == P.creator_id)
        .where(wanted)
        .order_by(P.id)
    )


def _sum(side: InstrumentedAttribute[str]) -> ColumnElement[int]:
    account = literal(CREATOR) + P.creator_id
    total = select(func.coalesce(func.sum(Entry.amount), 0))
    return total.where(side == account, Entry.currency == P.currency).scalar_subquery()


def _take(tx: Session, run_id: str, ids: Sequence[str], now: datetime) -> None:
    """The run's now; who had failed is ready again."""
    if not ids:
        return
    again = {_S.FAILED.value: _S.REQUESTED.value, _S.BANK_FAILED.value: _S.TRANSFERRED.value}
    tx.connection().execute(
        update(payouts)
        .where(P.id.in_(ids))
        .values(
            status=case(again, value=P.status, else_=P.status),
            method=case((P.reason.in_(NO_INSTANT), Method.STANDARD.value), else_=P.method),
            reason=None,
            settled_at=None,
            run_id=run_id,
            updated_at=now,
        )
    )


def _held(payout: P, n: int, now: datetime) -> Posting:
    owner, hold = creator_account(payout.creator_id), hold_account(payout.id)
    ref = f"{payout.id}-{n}"
    return Posting(EntryKind.HOLD, ref, owner, hold, payout.currency, payout.amount, now)

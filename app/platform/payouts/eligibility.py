"""Who is paid: balances and account gates, checked for all creators in one statement."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from app.platform.currencies import MINIMUM, UNIT
from app.platform.db import COUNTED, AnySelect, Tx, connection_of, insert
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import TAKING
from app.platform.ledger.postings import CREATOR, HOLD, EntryKind, balances, post_select
from app.platform.payouts.models import Method, Payout, PayoutStatus

HOLDING = timedelta(days=7)
"""The age at which a sale's share is paid. Most refunds come sooner."""


class LeftOut(StrEnum):
    """Why a creator with a balance is not paid. The first reason that applies is counted."""

    NO_ACCOUNT = "no_account"
    ACCOUNT_DISABLED = "account_disabled"
    """Stripe's `requirements.disabled_reason` is set."""
    TRANSFERS_INACTIVE = "transfers_inactive"
    PAYOUTS_DISABLED = "payouts_disabled"
    CURRENCY_UNSUPPORTED = "currency_unsupported"
    BELOW_MINIMUM = "below_minimum"
    HOLDING_PERIOD = "holding_period"
    """Only with sales younger than HOLDING is the minimum reached."""


_GATES: tuple[tuple[sa.ColumnElement[bool], str], ...] = (
    (Creator.stripe_account_id.is_(None), LeftOut.NO_ACCOUNT.value),
    (Creator.disabled_reason.is_not(None), LeftOut.ACCOUNT_DISABLED.value),
    (Creator.transfers_active.is_(False), LeftOut.TRANSFERS_INACTIVE.value),
    (Creator.payouts_enabled.is_(False), LeftOut.PAYOUTS_DISABLED.value),
)


def gate() -> sa.ColumnElement[str | None]:
    """Why the creator's account cannot be paid, or null. The gates are Stripe's:
    https://docs.stripe.com/connect/handling-api-verification."""
    return sa.case(*_GATES, else_=sa.null())


def _young_sales(now: datetime, unposted: bool) -> AnySelect:
    """Per creator and currency with sales younger than HOLDING: creator_id, currency, and the
    creator's share of them that is left (`amount`), according to the ledger. With `unposted`,
    earnings that are not posted yet count too."""
    take = aliased(Earning)
    # Looked up by sale in the index: only the window is read, however long the history is.
    back = sa.case((take.kind == EarningKind.DISPUTE_WON, -1), else_=1) * (take.gross - take.fee)
    taken = sa.select(sa.func.coalesce(sa.func.sum(back), 0)).where(take.refund_of == Earning.id)
    sales = [Earning.occurred_at > now - HOLDING, Earning.kind == EarningKind.EARNING]
    if not unposted:
        taken = taken.where(take.posted)
        sales.append(Earning.posted.expression)
    left = sa.func.sum(Earning.gross - Earning.fee - taken.scalar_subquery())
    by = (Earning.creator_id, Earning.currency)
    return sa.select(*by, sa.cast(left, sa.BigInteger).label("amount")).where(*sales).group_by(*by)


def _owed_when_posted() -> sa.Subquery:
    """The creators' balances once all earnings are posted."""
    share = Earning.gross - Earning.fee
    signed = sa.case((Earning.kind.in_(TAKING), -share), else_=share)
    account = (sa.literal(CREATOR) + Earning.creator_id).label("account")
    new = sa.select(account, Earning.currency, signed.label("amount")).where(~Earning.posted)
    every = sa.union_all(sa.select(*balances(CREATOR).c), new).subquery().c
    total = sa.cast(sa.func.sum(every.amount), sa.BigInteger).label("amount")
    by = (every.account, every.currency)
    return sa.select(*by, total).group_by(*by).subquery()


def verdicts(now: datetime, *, unposted: bool = False, only: str | None = None) -> AnySelect:
    """Per creator and currency with a balance other than zero: creator_id, destination, currency,
    balance, the amount that is payable now, and the `reason` to leave it out (null if it is to be
    paid). With `unposted`, as after post_earnings(). With `only`, for one creator."""
    young_sales = _young_sales(now, unposted)
    if only is not None:
        young_sales = young_sales.where(Earning.creator_id == only)
    owed = (_owed_when_posted() if unposted else balances(CREATOR + (only or ""))).c
    young = young_sales.subquery().c
    creator = sa.func.substr(owed.account, len(CREATOR) + 1)
    held_back = sa.func.coalesce(young.amount, 0)
    free = owed.amount - sa.case((held_back > 0, held_back), else_=0)
    step = sa.case(dict(UNIT), value=owed.currency, else_=sa.null())
    minimum = sa.case(dict(MINIMUM), value=owed.currency, else_=sa.null())
    payable_now = sa.case((sa.and_(free > 0, step.is_not(None)), free - free % step), else_=0)
    same = sa.and_(young.creator_id == creator, young.currency == owed.currency)
    f = (
        sa.select(
            creator.label("creator_id"),
            owed.currency,
            owed.amount.label("balance"),
            payable_now.label("amount"),
            minimum.label("minimum"),
        )
        .join_from(owed.account.table, young.creator_id.table, same, isouter=True)
        .where(owed.amount != 0)
        .subquery()
    ).c
    reason = sa.case(
        *_GATES,
        (f.minimum.is_(None), LeftOut.CURRENCY_UNSUPPORTED.value),
        (f.balance < f.minimum, LeftOut.BELOW_MINIMUM.value),
        (f.amount < f.minimum, LeftOut.HOLDING_PERIOD.value),
        else_=sa.null(),
    )
    to = Creator.stripe_account_id.label("destination")
    columns = (f.creator_id, to, f.currency, f.balance, f.amount, reason.label("reason"))
    return sa.select(*columns).join_from(f.creator_id.table, Creator, Creator.id == f.creator_id)


def payable(tx: Tx, creator_id: str, currency: str, now: datetime) -> int:
    """How much of a creator's balance can be paid now, in minor units but rounded down to what the
    currency allows; 0 for an unsupported currency. The minimum is not checked."""
    v = verdicts(now, only=creator_id).subquery().c
    chosen = sa.select(v.amount).where(v.creator_id == creator_id, v.currency == currency)
    return connection_of(tx).scalar(chosen) or 0


def reserve(tx: Tx, payout_date: date, now: datetime, run_id: str) -> dict[str, Any]:
    """Request a payout of the payable amount for everyone eligible, and set the money aside.

    Returns counts: `requested` (all payouts of this date), `new` (those created now, for `run_id`)
    and `leftOut` by reason. A repetition only adds creators who have become eligible and have no
    payout of that date. Call post_earnings() first: only what is in the ledger is paid.
    """
    connection = connection_of(tx)
    # A manual payout locks its creator too, so that two requests cannot spend the same balance.
    # New sales do not wait for this lock. (SQLite has one writer and leaves the clause out.)
    everyone = sa.select(Creator.id).order_by(Creator.id)
    connection.execute(everyone.with_for_update(key_share=True))
    v = verdicts(now).subquery().c
    by_reason = sa.select(v.reason, sa.func.count()).where(v.reason.is_not(None)).group_by(v.reason)
    counts = {row[0]: row[1] for row in connection.execute(by_reason)}
    chosen: dict[str, sa.ColumnElement[Any]] = {
        "id": sa.literal(f"{payout_date.isoformat()}:") + v.creator_id + ":" + v.currency,
        "creator_id": v.creator_id,
        "currency": v.currency,
        "amount": v.amount,
        "destination": v.destination,
        "status": sa.literal(PayoutStatus.REQUESTED.value, sa.String),
        "method": sa.literal(Method.STANDARD.value, sa.String),
        "payout_date": sa.literal(payout_date, Payout.payout_date.type),
        "run_id": sa.literal(run_id, sa.String),
        "requested_at": sa.literal(now, Payout.requested_at.type),
        "updated_at": sa.literal(now, Payout.updated_at.type),
    }
    source = sa.select(*chosen.values()).where(v.reason.is_(None))
    requests = insert(tx, Payout).from_select(list(chosen), source).on_conflict_do_nothing()
    new = connection.execute(requests, execution_options=COUNTED).rowcount
    held = (
        sa.literal(EntryKind.HOLD.value, sa.String),
        # The first attempt's key. Each retry of a refused transfer holds money under its own key.
        Payout.id + "-1",
        sa.literal(CREATOR) + Payout.creator_id,
        (sa.literal(HOLD) + Payout.id).label("credit"),
        *(Payout.currency, Payout.amount, Payout.requested_at),
    )
    today = Payout.payout_date == payout_date
    post_select(tx, sa.select(*held).where(today, Payout.status == PayoutStatus.REQUESTED))
    return {
        "requested": connection.scalar(sa.select(sa.func.count()).where(today)) or 0,
        "new": new,
        "leftOut": {reason.value: counts[reason] for reason in LeftOut if reason in counts},
    }

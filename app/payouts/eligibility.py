"""Who is paid: balance and account gates, decided for all creators in one statement."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, String, case, func, literal, null, select
from sqlalchemy.sql.elements import Null

from app.earnings.models import Creator
from app.ledger.postings import (
    COUNTED,
    CREATOR,
    HOLD,
    INSERT,
    AnySelect,
    EntryKind,
    Tx,
    balances,
    connection_of,
    post_select,
)
from app.payouts.models import Payout, PayoutStatus, payouts

MINIMUM: Mapping[str, int] = {"usd": 2_500, "eur": 2_500, "gbp": 2_000, "jpy": 3_000}
"""The least worth paying, by currency, minor units (yen have none smaller). Other currencies are
not paid."""


class LeftOut(StrEnum):
    """Why a creator with a balance is not paid; the first that holds is the one counted."""

    NO_ACCOUNT = "no_account"
    ACCOUNT_DISABLED = "account_disabled"
    """Stripe's `requirements.disabled_reason` is set."""
    TRANSFERS_INACTIVE = "transfers_inactive"
    PAYOUTS_DISABLED = "payouts_disabled"
    CURRENCY_UNSUPPORTED = "currency_unsupported"
    BELOW_MINIMUM = "below_minimum"


_GATES: tuple[tuple[ColumnElement[bool], LeftOut], ...] = (
    (Creator.stripe_account_id.is_(None), LeftOut.NO_ACCOUNT),
    (Creator.disabled_reason.is_not(None), LeftOut.ACCOUNT_DISABLED),
    (Creator.transfers_active.is_(False), LeftOut.TRANSFERS_INACTIVE),
    (Creator.payouts_enabled.is_(False), LeftOut.PAYOUTS_DISABLED),
)


def gate() -> ColumnElement[str | None]:
    """What the creator's account is left out for, or null.

    The gates are Stripe's: https://docs.stripe.com/connect/handling-api-verification.
    """
    return _first(*_GATES)


def _first(*reasons: tuple[ColumnElement[bool], LeftOut]) -> ColumnElement[str | None]:
    nothing: Null = null()
    return case(*((when, literal(why.value)) for when, why in reasons), else_=nothing)


def verdicts() -> AnySelect:
    """Per creator and currency with a balance other than zero: creator_id, destination, currency,
    amount, and the `reason` to leave it out (null: to be paid)."""
    owed = balances(CREATOR)
    minimum = case(dict(MINIMUM), value=owed.c.currency, else_=null())
    reason = _first(
        *_GATES,
        (minimum.is_(None), LeftOut.CURRENCY_UNSUPPORTED),
        (owed.c.amount < minimum, LeftOut.BELOW_MINIMUM),
    )
    return (
        select(
            Creator.id.label("creator_id"),
            Creator.stripe_account_id.label("destination"),
            owed.c.currency,
            owed.c.amount,
            reason.label("reason"),
        )
        .join_from(owed, Creator, Creator.id == func.substr(owed.c.account, len(CREATOR) + 1))
        .where(owed.c.amount != 0)
    )


def reserve(tx: Tx, payout_date: date, now: datetime) -> dict[str, Any]:
    """Request a payout of the whole balance for everyone eligible, and set the money aside.

    Counts only: `requested` (this date's payouts), `new` (of them, made now), `leftOut` by reason.
    Repeating it adds at most who became eligible since and has no payout of that date.
    """
    connection = connection_of(tx)
    # A manual payout locks its creator too: two requests cannot both spend one balance. (SQLite
    # has one writer anyway and leaves the clause out.)
    connection.execute(select(Creator.id).order_by(Creator.id).with_for_update())
    verdict = verdicts().subquery()
    v = verdict.c
    left_out = connection.execute(
        select(v.reason, func.count()).where(v.reason.is_not(None)).group_by(v.reason)
    )
    counts = {row[0]: row[1] for row in left_out}
    payout_id = literal(f"{payout_date.isoformat()}:") + v.creator_id + ":" + v.currency
    chosen: dict[str, ColumnElement[Any]] = {
        "id": payout_id,
        "creator_id": v.creator_id,
        "currency": v.currency,
        "amount": v.amount,
        "destination": v.destination,
        "status": literal(PayoutStatus.REQUESTED.value, String),
        "payout_date": literal(payout_date, Payout.payout_date.type),
        "requested_at": literal(now, Payout.requested_at.type),
    }
    insert = INSERT[connection.dialect.name](payouts)
    source = select(*chosen.values()).where(v.reason.is_(None))
    insert = insert.from_select(list(chosen), source).on_conflict_do_nothing()
    made = connection.execute(insert, execution_options=COUNTED).rowcount
    post_select(
        tx,
        select(
            literal(EntryKind.HOLD.value, String),
            # The first attempt's key: each try sets the money aside anew, under its own name.
            Payout.id + "-1",
            literal(CREATOR) + Payout.creator_id,
            (literal(HOLD) + Payout.id).label("credit"),
            Payout.currency,
            Payout.amount,
            Payout.requested_at,
        ).where(Payout.payout_date == payout_date, Payout.status == PayoutStatus.REQUESTED),
    )
    requested = select(func.count()).where(Payout.payout_date == payout_date)
    return {
        "requested": connection.scalar(requested) or 0,
        "new": made,
        "leftOut": {reason.value: counts[reason] for reason in LeftOut if reason in counts},
    }

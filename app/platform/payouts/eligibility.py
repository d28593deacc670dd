"""Who is paid: balance and account gates, decided for all creators in one statement."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    Subquery,
    and_,
    case,
    cast,
    func,
    literal,
    not_,
    null,
    select,
    union_all,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import Null

from app.platform.currencies import MINIMUM, UNIT
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import TAKING
from app.platform.ledger.postings import (
    COUNTED,
    CREATOR,
    HOLD,
    AnySelect,
    EntryKind,
    Tx,
    balance_of,
    balanced,
    balances,
    connection_of,
    creator_account,
    post_select,
    trial_balance,
)
from app.platform.payouts.models import Method, Payout, PayoutStatus, payouts
from app.switchyard.db import INSERT

HOLDING = timedelta(days=7)
"""How old a sale must be before its share is paid: most refunds come sooner."""


class LeftOut(StrEnum):
    """Why a creator with a balance is not paid; the first that holds is the one counted."""

    NO_ACCOUNT = "no_account"
    ACCOUNT_DISABLED = "account_disabled"
    """Stripe's `requirements.disabled_reason` is set."""
    TRANSFERS_INACTIVE = "transfers_inactive"
    PAYOUTS_DISABLED = "payouts_disabled"
    CURRENCY_UNSUPPORTED = "currency_unsupported"
    BELOW_MINIMUM = "below_minimum"
    HOLDING_PERIOD = "holding_period"
    """The minimum is only reached with sales younger than HOLDING."""


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


def young_sales(now: datetime, *, unposted: bool = False) -> AnySelect:
    """Per creator and currency with sales younger than HOLDING: creator_id, currency, and what is
    left of the creator's share of them (`amount`), as far as the ledger knows; with `unposted` as
    it will know when all is posted."""
    known = [] if unposted else [Earning.posted]
    take = aliased(Earning)
    # Looked up by sale, from the index: only the window is read, however long the history.
    taken = (
        select(
            func.coalesce(
                func.sum(
                    case((take.kind == EarningKind.DISPUTE_WON, -1), else_=1)
                    * (take.gross - take.fee)
                ),
                0,
            )
        )
        .where(take.refund_of == Earning.id, *([] if unposted else [take.posted]))
        .scalar_subquery()
    )
    return (
        select(
            Earning.creator_id,
            Earning.currency,
            cast(func.sum(Earning.gross - Earning.fee - taken), BigInteger).label("amount"),
        )
        .where(Earning.occurred_at > now - HOLDING, Earning.kind == EarningKind.EARNING, *known)
        .group_by(Earning.creator_id, Earning.currency)
    )


def _payable(
    owed: ColumnElement[int], young: ColumnElement[int], currency: ColumnElement[str]
) -> ColumnElement[int]:
    free = case((young > 0, owed - young), else_=owed)
    step = case(dict(UNIT), value=currency, else_=null())
    return case((and_(free > 0, step.is_not(None)), free - free % step), else_=0)


def _owed_when_posted() -> Subquery:
    """The creators' balances as they will be when all earnings are posted."""
    share = Earning.gross - Earning.fee
    signed = case((Earning.kind.in_(TAKING), -share), else_=share)
    account = (literal(CREATOR) + Earning.creator_id).label("account")
    new = select(account, Earning.currency, signed.label("amount")).where(not_(Earning.posted))
    all_of_it = union_all(select(*balances(CREATOR).c), new).subquery().c
    by = (all_of_it.account, all_of_it.currency)
    total = cast(func.sum(all_of_it.amount), BigInteger).label("amount")
    return select(*by, total).group_by(*by).subquery()


def verdicts(now: datetime, *, unposted: bool = False) -> AnySelect:
    """Per creator and currency with a balance other than zero: creator_id, destination, currency,
    balance, amount (what of it is payable now) and the `reason` to leave it out (null: to be
    paid). With `unposted` as after post_earnings()."""
    owed = _owed_when_posted() if unposted else balances(CREATOR)
    young = young_sales(now, unposted=unposted).subquery()
    creator = func.substr(owed.c.account, len(CREATOR) + 1)
    figures = (
        select(
            creator.label("creator_id"),
            owed.c.currency,
            owed.c.amount.label("balance"),
            _payable(owed.c.amount, func.coalesce(young.c.amount, 0), owed.c.currency).label(
                "amount"
            ),
            case(dict(MINIMUM), value=owed.c.currency, else_=null()).label("minimum"),
        )
        .join_from(
            owed,
            young,
            and_(young.c.creator_id == creator, young.c.currency == owed.c.currency),
            isouter=True,
        )
        .where(owed.c.amount != 0)
        .subquery()
    )
    f = figures.c
    reason = _first(
        *_GATES,
        (f.minimum.is_(None), LeftOut.CURRENCY_UNSUPPORTED),
        (f.balance < f.minimum, LeftOut.BELOW_MINIMUM),
        (f.amount < f.minimum, LeftOut.HOLDING_PERIOD),
    )
    return select(
        f.creator_id,
        Creator.stripe_account_id.label("destination"),
        f.currency,
        f.balance,
        f.amount,
        reason.label("reason"),
    ).join_from(figures, Creator, Creator.id == f.creator_id)


def payable(tx: Tx, creator_id: str, currency: str, now: datetime) -> int:
    """What of a creator's balance can be paid now, minor units, whole units of the currency; 0 for
    a currency that is not paid. The minimum is not asked."""
    young = young_sales(now).where(Earning.creator_id == creator_id, Earning.currency == currency)
    young = young.with_only_columns(young.selected_columns.amount)
    # One statement: a refund must not come between the two figures.
    figures = select(
        balance_of(creator_account(creator_id), currency).label("owed"),
        func.coalesce(young.scalar_subquery(), 0).label("young"),
    ).subquery()
    f = figures.c
    return int(connection_of(tx).scalar(select(_payable(f.owed, f.young, literal(currency)))) or 0)


def reserve(tx: Tx, payout_date: date, now: datetime, run_id: str) -> dict[str, Any]:
    """Request a payout of all that is payable for everyone eligible, and set the money aside.

    Counts only: `requested` (this date's payouts), `new` (of them, made now, for `run_id`),
    `leftOut` by reason. Repeating it adds at most who became eligible since and has no payout of
    that date; the others stay as they are, whichever run they belong to. What is not in the ledger
    is not paid: post_earnings() comes first.
    """
    connection = connection_of(tx)
    # A manual payout locks its creator too: two requests cannot both spend one balance. New sales
    # are not held up by it. (SQLite has one writer anyway and leaves the clause out.)
    everyone = select(Creator.id).order_by(Creator.id)
    connection.execute(everyone.with_for_update(key_share=True))
    verdict = verdicts(now).subquery()
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
        "method": literal(Method.STANDARD.value, String),
        "payout_date": literal(payout_date, Payout.payout_date.type),
        "run_id": literal(run_id, String),
        "requested_at": literal(now, Payout.requested_at.type),
        "updated_at": literal(now, Payout.updated_at.type),
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


def plan_day(tx: Session, payout_date: date, now: datetime) -> dict[str, Any]:
    """Who would be paid now on that pay day, and why the others would not; only reads.

    `pay` has what would be requested, and what is requested and not finished yet (with payoutId and
    status); `paid` who was paid for that day; `leftOut` the balances that stay, and the day's
    payouts that failed (the reason is their status). Amounts are minor units.
    """
    pay, left_out = _planned(tx, payout_date, now)
    paid = select(Payout.creator_id, Payout.currency, Payout.amount).where(
        Payout.payout_date == payout_date, Payout.status == PayoutStatus.PAID
    )
    counts, sums = Counter[str](), Counter[str]()
    for one in pay:
        counts[one["currency"]] += 1
        sums[one["currency"]] += one["amount"]
    return {
        "payoutDate": payout_date.isoformat(),
        "booksBalanced": balanced(trial_balance(tx)),
        "totals": [
            {"currency": currency, "count": counts[currency], "amount": sums[currency]}
            for currency in sorted(counts)
        ],
        "leftOutTotals": dict(sorted(Counter(one["reason"] for one in left_out).items())),
        "pay": pay,
        "paid": [
            {"creatorId": row.creator_id, "currency": row.currency, "amount": row.amount}
            for row in tx.execute(paid.order_by(Payout.creator_id, Payout.currency))
        ],
        "leftOut": left_out,
    }


def planned_payouts(plan: dict[str, Any]) -> dict[str, Any]:
    """Of a plan what the day leaves behind, whether it has yet to begin or is over: each payout's
    amount by creator and currency."""
    made = [one for one in plan["leftOut"] if one["reason"] in PayoutStatus.__members__.values()]
    every = [*plan["pay"], *plan["paid"], *made]
    return {
        "requested": len(every),
        "payouts": {f"{one['creatorId']}:{one['currency']}": one["amount"] for one in every},
    }


def made_payouts(tx: Session, payout_date: date, requested: int) -> dict[str, Any]:
    """The same of a day's payouts as they are, `requested` as the run that made them says."""
    columns = (Payout.creator_id, Payout.currency, Payout.amount)
    rows = tx.execute(select(*columns).where(Payout.payout_date == payout_date))
    amounts = {f"{creator}:{currency}": amount for creator, currency, amount in rows}
    return {"requested": requested, "payouts": amounts}


def _planned(
    tx: Session, payout_date: date, now: datetime
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Who is to be paid, and who is left out, by creator and currency."""
    pay, left_out = list[dict[str, Any]](), list[dict[str, Any]]()
    there = select(Payout).where(Payout.payout_date == payout_date)
    for payout in tx.scalars(there.where(Payout.status != PayoutStatus.PAID)):
        one = {"creatorId": payout.creator_id, "currency": payout.currency, "amount": payout.amount}
        if payout.settled_at is None:
            order = {"destination": payout.destination, "payoutId": payout.id}
            pay.append(one | order | {"status": payout.status})
        else:
            left_out.append(one | {"reason": payout.status})
    v = verdicts(now, unposted=True).subquery().c
    has_one = there.where(Payout.creator_id == v.creator_id, Payout.currency == v.currency).exists()
    for row in tx.execute(select(*v).where(~has_one)):
        one = {"creatorId": row.creator_id, "currency": row.currency}
        if row.reason is None:
            pay.append(one | {"amount": row.amount, "destination": row.destination})
        else:
            left_out.append(one | {"amount": row.balance, "reason": row.reason})
    for rows in (pay, left_out):
        rows.sort(key=lambda one: (one["creatorId"], one["currency"]))
    return pay, left_out

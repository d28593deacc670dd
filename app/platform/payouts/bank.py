"""What Stripe says of a payout after it was sent: its way to the bank, and reversed transfers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.platform.gateways import pace
from app.platform.gateways.pace import Places
from app.platform.gateways.stripe import BankPayout, StripeRefused, Transfer
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import (
    CASH,
    EntryKind,
    Posting,
    connected_account,
    creator_account,
    hold_account,
    post,
)
from app.platform.payouts.attempts import apply
from app.platform.payouts.engine import AT_ONCE, PAGE_SIZE, STRIPE_PACE
from app.platform.payouts.legs import BANK, TRANSFER, Change, followed
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.context import Context
from app.switchyard.job_errors import RetryAfter

MAY_COME_BACK = timedelta(days=7)
"""How long after it was paid a bank payout is asked about: banks send back within five business
days (https://docs.stripe.com/payouts#payout-failures)."""
RECORDED_SOON = timedelta(seconds=15)


def heard(tx: Session, bank: BankPayout, now: datetime) -> dict[str, Any]:
    """Take over what Stripe says of a bank payout.

    Raises RetryAfter where it is one that is being recorded just now.
    """
    named = bank.metadata.get("payout_id", "")
    chosen = or_(Payout.bank_payout_id == bank.id, Payout.id == named)
    payout = tx.scalar(select(Payout).where(chosen).order_by(Payout.id).with_for_update())
    told = {"status": bank.status, "failureCode": bank.failure_code}
    if payout is None:
        return told | {"payoutId": None}
    if payout.status == PayoutStatus.PAYING:
        raise RetryAfter(f"payout {payout.id}: its bank payout is not recorded yet", RECORDED_SOON)
    return told | {"payoutId": payout.id, "moved": _follow(tx, payout, bank, now)}


def _follow(tx: Session, payout: Payout, bank: BankPayout, now: datetime) -> bool:
    change = followed(payout, bank, now)
    if change is not None:
        apply(tx, PayoutStatus(payout.status), {payout.id: change}, BANK, now)
    return change is not None


def follow_page(tx: Session, ctx: Context, after: str) -> dict[str, Any]:
    """Ask Stripe about the next hundred bank payouts past `after` that can still change, as a step.

    Webhooks say it first; this finds what they lost. Returns the page's `last` payout id (None:
    there are no more) and how many were `asked` about, have `moved`, and are `unknown` to Stripe.
    """
    now = ctx.now()
    # Not settled_at, which is the same for a paid one: this is in the index.
    paid = and_(Payout.status == PayoutStatus.PAID, Payout.updated_at >= now - MAY_COME_BACK)
    open_ = or_(Payout.status == PayoutStatus.IN_TRANSIT, paid)
    query = select(Payout).where(open_, Payout.bank_payout_id.is_not(None), Payout.id > after)
    with ctx.transaction() as own:
        page = list(own.scalars(query.order_by(Payout.id).limit(PAGE_SIZE)))
        rate = ctx.gateways.stripe.calls_per_second
        places = pace.take(own, STRIPE_PACE, len(page), rate, now)
    answers = list(_asked(ctx, page, places))
    moved = unknown = 0
    for payout_id, bank in answers:
        if bank is None:
            unknown += 1
            continue
        payout = tx.get_one(Payout, payout_id, with_for_update=True)
        moved += _follow(tx, payout, bank, now)
    last = page[-1].id if len(page) == PAGE_SIZE else None
    return {"last": last, "asked": len(page), "moved": moved, "unknown": unknown}


def _asked(
    ctx: Context, page: Sequence[Payout], places: Places
) -> Iterator[tuple[str, BankPayout | None]]:
    def ask(place: int, payout: Payout) -> tuple[str, BankPayout | None]:
        places.wait(place)
        try:
            found = ctx.gateways.stripe.retrieve_payout(
                payout.destination, str(payout.bank_payout_id)
            )
        except StripeRefused:
            return payout.id, None
        return payout.id, found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(ask, range(len(page)), page)


def reversed_at_stripe(tx: Session, transfer: Transfer, now: datetime) -> dict[str, Any]:
    """Take over how much of a transfer was reversed; `error` where a person must look.

    What came back is the platform's cash again. A whole transfer that had not left for the bank is
    the creator's balance again, and its payout over.
    """
    back = transfer.amount_reversed_minor
    told: dict[str, Any] = {"amountReversed": back, "error": None}
    if not back:
        return told
    payout = tx.scalar(select(Payout).where(Payout.transfer_id == transfer.id).with_for_update())
    if payout is None:
        return told | {"error": "reversed, and not a transfer of the ledger's"}
    connected = connected_account(payout.id)
    known = tx.scalar(
        select(func.coalesce(func.sum(Entry.amount), 0)).where(
            Entry.kind == EntryKind.REVERSAL, Entry.credit == connected
        )
    )
    new = back - int(known or 0)
    ref = f"{transfer.id}:{back}"
    if new > 0:
        entry = Posting(EntryKind.REVERSAL, ref, CASH, connected, payout.currency, new, now)
        post(tx, [entry])
    told |= {"payoutId": payout.id}
    if payout.status == PayoutStatus.REVERSED:
        return told
    whole = back >= payout.amount
    if not whole or payout.status not in (PayoutStatus.TRANSFERRED, PayoutStatus.BANK_FAILED):
        part = "" if whole else f"{back} of {payout.amount} "
        return told | {"error": f"{part}reversed while {payout.status}: a person must look"}
    hold, owner = hold_account(payout.id), creator_account(payout.creator_id)
    freed = Posting(
        EntryKind.RELEASE, transfer.id, hold, owner, payout.currency, payout.amount, now
    )
    change = Change(PayoutStatus.REVERSED, "transfer_reversed", None, (freed,))
    apply(tx, PayoutStatus(payout.status), {payout.id: change}, TRANSFER, now)
    return told

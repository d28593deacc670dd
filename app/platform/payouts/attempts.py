"""The attempts at a payout's legs, and their outcomes, each of which is recorded once.

A writer locks the payouts' rows and checks their statuses. Where two processes have an outcome, one
records it, and the other sees that it is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe_answers import BankPayout, StripeRefused, Transfer
from app.platform.ledger.postings import post
from app.platform.mail import mail_creator, mailing
from app.platform.payouts.legs import Change, Leg
from app.platform.payouts.models import MOVES, SETTLED, AttemptOutcome, Payout, PayoutStatus
from app.platform.payouts.models import PayoutAttempt as A
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.db import canonical_json
from app.switchyard.errors import SwitchyardError

KEY_EXPIRED = "key_expired"
"""The code of an attempt that had no effect and whose key can no longer be sent."""
OPEN = (AttemptOutcome.SENDING, AttemptOutcome.UNKNOWN)
_CODE_LENGTH = 100


class PayoutMoved(SwitchyardError, status=409, title="Payout moved"):
    """Another process has moved the payout on. A retry sees its new status."""


@dataclass(slots=True)
class Try:
    """A payout, the attempt at one of its legs that is sent or resent, and its outcome."""

    payout: Payout
    attempt: A
    end: Transfer | BankPayout | Exception | None = None
    """Stripe's object, StripeRefused, or an error that leaves it open. None if it was not sent."""


def open_attempts(own: Session, leg: Leg, chosen: Sequence[Payout], now: datetime) -> list[Try]:
    """An attempt for each of the payouts, which the caller has locked: a new one where a payout is
    ready, and the open one where it is being sent. New ones are recorded when `own` commits."""
    mine = (A.payout_id.in_([payout.id for payout in chosen]), A.leg == leg.name)
    # In the order of their numbers, so that the last one of each payout is kept.
    latest = {one.payout_id: one for one in own.scalars(select(A).where(*mine).order_by(A.n))}
    tries = list[Try]()
    for payout in chosen:
        if payout.status == leg.ready:
            n = latest[payout.id].n + 1 if payout.id in latest else 1
            latest[payout.id] = _new(own, leg, payout, n, now)
            _move(payout, Change(leg.sending), leg, now)
        tries.append(Try(payout, latest[payout.id]))
    return tries


def replace(ctx: Context, leg: Leg, one: Try) -> None:
    """Replace an attempt whose key is of no more use, and which had no effect, by a new one.

    Raises PayoutMoved where another process has closed it.
    """
    now = ctx.now()
    with ctx.transaction() as own:
        own.execute(select(Payout.id).where(Payout.id == one.payout.id).with_for_update())
        open_ = select(A).where(A.key == one.attempt.key, A.outcome.in_(OPEN))
        old = own.scalars(open_).one_or_none()
        if old is None:
            raise PayoutMoved(f"payout {one.payout.id}: another process has continued it")
        old.outcome, old.code, old.updated_at = AttemptOutcome.REFUSED, KEY_EXPIRED, now
        one.attempt = _new(own, leg, one.payout, old.n + 1, now)


def note_unknown(ctx: Context, unclear: Sequence[Try]) -> None:
    """Record at once that these were sent and that their outcome is not known."""
    if not unclear:
        return
    now, ids = ctx.now(), [one.payout.id for one in unclear]
    with ctx.transaction() as own:
        own.execute(update(Payout).where(Payout.id.in_(ids)).values(updated_at=now))
        for one in unclear:
            still = (A.key == one.attempt.key, A.outcome.in_(OPEN))
            said = {"outcome": AttemptOutcome.UNKNOWN, "message": str(one.end), "updated_at": now}
            own.execute(update(A).where(*still).values(said))


def record(tx: Session, leg: Leg, tries: Sequence[Try], now: datetime) -> Counter[PayoutStatus]:
    """Record the attempts' outcomes. Returns how many payouts moved to each status.

    Outcomes that another process has already recorded are left alone and not counted.
    """
    ended = Transfer | BankPayout | StripeRefused
    ends = {one.attempt.key: one.end for one in tries if isinstance(one.end, ended)}
    if not ends:
        return Counter()
    ids = [one.payout.id for one in tries if one.attempt.key in ends]
    # Locked first, so that nothing changes after it is read.
    tx.execute(select(Payout.id).where(Payout.id.in_(ids)).order_by(Payout.id).with_for_update())
    still = (A.key.in_(ends), A.outcome.in_(OPEN), Payout.status == leg.sending)
    chosen = (
        select(Payout, A, Creator.manual_payouts)
        .join(A, A.payout_id == Payout.id)
        .join(Creator, Creator.id == Payout.creator_id)
        .where(*still)
        .order_by(Payout.id)
    )
    moves = list[tuple[Payout, Change]]()
    for payout, attempt, manual in tx.execute(chosen).all():
        end = ends[attempt.key]
        attempt.updated_at = now
        if isinstance(end, StripeRefused):
            attempt.outcome, attempt.message = AttemptOutcome.REFUSED, end.message
            attempt.code = end.code[:_CODE_LENGTH]
            moves.append((payout, leg.refused(payout, attempt.key, end.code, now)))
        else:
            attempt.outcome, attempt.object_id = AttemptOutcome.LANDED, end.id
            moves.append((payout, leg.landed(payout, end, manual, now)))
    apply(tx, moves, leg, now)
    return Counter(change.status for _, change in moves)


def apply(tx: Session, moves: Sequence[tuple[Payout, Change]], leg: Leg, now: datetime) -> None:
    """Change the statuses of payouts that the caller has locked, post entries and mail creators.

    Raises ValueError for a move that MOVES does not allow.
    """
    for payout, change in moves:
        _move(payout, change, leg, now)
    post(tx, [posting for _, change in moves for posting in change.postings])
    _mail_creators(tx, [payout for payout, _ in moves], now)


def _move(payout: Payout, change: Change, leg: Leg, now: datetime) -> None:
    if change.status not in MOVES[PayoutStatus(payout.status)]:
        raise ValueError(f"a payout does not go from {payout.status} to {change.status}")
    payout.status, payout.updated_at = change.status, now
    payout.reason = change.reason and change.reason[:_CODE_LENGTH]
    payout.settled_at = now if change.status in SETTLED else None
    if change.object_id is not None:
        setattr(payout, leg.column, change.object_id)


def _new(own: Session, leg: Leg, payout: Payout, n: int, now: datetime) -> A:
    key = leg.key(payout, n)
    attempt = A(
        key=key,
        payout_id=payout.id,
        leg=leg.name,
        n=n,
        params=canonical_json(leg.params(payout, key)),
        first_sent_at=now,
        outcome=AttemptOutcome.SENDING,
        updated_at=now,
    )
    own.add(attempt)
    return attempt


def _mail_creators(tx: Session, payouts: Sequence[Payout], now: datetime) -> None:
    """Mail the creators whose payouts were just paid or failed: once for each Stripe object that
    paid, and once for each reason for a failure."""
    ended = (PayoutStatus.PAID, PayoutStatus.FAILED, PayoutStatus.BANK_FAILED)
    payouts = [payout for payout in payouts if payout.status in ended]
    if not payouts or not mailing():
        return
    owners = {payout.creator_id for payout in payouts}
    creators = {one.id: one for one in tx.scalars(select(Creator).where(Creator.id.in_(owners)))}
    for payout in payouts:
        creator = creators[payout.creator_id]
        data = {"payoutId": payout.id, "amount": payout.amount, "currency": payout.currency}
        if payout.status == PayoutStatus.PAID:
            template, which = "payout-paid", payout.bank_payout_id or payout.transfer_id
            data["paidAt"] = iso(now)
        else:
            template, which = "payout-failed", payout.reason or ""
            data |= {} if payout.reason is None else {"reason": payout.reason}
        key = sha256(f"{payout.id} {which}".encode()).hexdigest()[:32]
        mail_creator(tx, creator.name, creator.email, template, data, f"{template}:{key}")

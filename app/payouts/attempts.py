"""A payout's status and its attempts: each change one compare-and-set, so that one writer wins."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import canonical_json
from app.errors import SwitchyardError
from app.jobs.context import Context
from app.jobs.errors import NonRetriable
from app.payouts.models import (
    MOVES,
    AttemptOutcome,
    Payout,
    PayoutAttempt,
    PayoutStatus,
    attempts,
    payouts,
)

KEY_EXPIRED = "key_expired"
"""The code of an attempt whose key outlived its window without an effect."""
_OPEN = (AttemptOutcome.SENDING, AttemptOutcome.UNKNOWN)


class PayoutMoved(SwitchyardError):
    """Another process moved the payout on meanwhile; trying again finds it where it is."""

    status = 409
    title = "Payout moved"


def open_attempt(own: Session, payout: Payout, now: datetime) -> PayoutAttempt:
    """The attempt to (re)send, on record once `own` commits; the caller holds `payout` locked."""
    latest = _latest(own, payout.id)
    if payout.status == PayoutStatus.REQUESTED:
        move(own, payout.id, PayoutStatus.REQUESTED, PayoutStatus.SENDING)
        return _new(own, payout, 1 if latest is None else latest.n + 1, now)
    if latest is None:
        raise NonRetriable(f"payout {payout.id} is being sent but has no attempt on record")
    return latest


def _latest(own: Session, payout_id: str) -> PayoutAttempt | None:
    A = PayoutAttempt
    return own.scalar(select(A).where(A.payout_id == payout_id).order_by(A.n.desc()).limit(1))


def _new(own: Session, payout: Payout, n: int, now: datetime) -> PayoutAttempt:
    params = {
        "amount_minor": payout.amount,
        "currency": payout.currency,
        "destination": payout.destination,
        "transfer_group": payout.id,
        "metadata": {"payout_id": payout.id, "creator_id": payout.creator_id},
    }
    attempt = PayoutAttempt(
        key=f"{payout.id}-{n}",
        payout_id=payout.id,
        n=n,
        params=canonical_json(params),
        first_sent_at=now,
        outcome=AttemptOutcome.SENDING,
        updated_at=now,
    )
    own.add(attempt)
    own.flush()
    return attempt


def replace(ctx: Context, payout: Payout, old: PayoutAttempt) -> PayoutAttempt:
    """A new attempt in place of one whose key is too old and which Stripe knows nothing of."""
    now = ctx.now()
    with ctx.transaction() as own:
        own.execute(select(Payout.id).where(Payout.id == payout.id).with_for_update())
        latest = _latest(own, payout.id)
        if latest is None or latest.key != old.key:
            raise PayoutMoved(f"payout {payout.id}: another process goes on with it")
        close(own, old.key, now, AttemptOutcome.REFUSED, code=KEY_EXPIRED)
        return _new(own, payout, old.n + 1, now)


def note_unknown(ctx: Context, attempt: PayoutAttempt, message: str) -> None:
    """Put on record, at once, that the attempt was sent and its outcome is not known."""
    with ctx.transaction() as own:
        own.execute(
            update(attempts)
            .where(PayoutAttempt.key == attempt.key, PayoutAttempt.outcome.in_(_OPEN))
            .values(outcome=AttemptOutcome.UNKNOWN, message=message, updated_at=ctx.now())
        )


def close(
    tx: Session, key: str, now: datetime, outcome: AttemptOutcome, **values: str | None
) -> None:
    """End an open attempt, setting `values` with it. Raises PayoutMoved where it is closed."""
    closed = tx.connection().execute(
        update(attempts)
        .where(PayoutAttempt.key == key, PayoutAttempt.outcome.in_(_OPEN))
        .values(outcome=outcome, updated_at=now, **values)
    )
    if closed.rowcount != 1:
        raise PayoutMoved(f"attempt {key} is closed already")


def move(tx: Session, payout_id: str, old: PayoutStatus, new: PayoutStatus, **values: Any) -> None:
    """Move a payout on, setting `values` with it. Raises PayoutMoved where it is not in `old`.

    Raises ValueError for a move that MOVES does not allow.
    """
    if new not in MOVES[old]:
        raise ValueError(f"a payout does not go from {old} to {new}")
    moved = tx.connection().execute(
        update(payouts)
        .where(Payout.id == payout_id, Payout.status == old)
        .values(status=new, **values)
    )
    if moved.rowcount != 1:
        raise PayoutMoved(f"payout {payout_id} is no longer {old}")

"""The attempts at a payout's legs, and what comes of them: on record, each written once.

Whoever writes holds the payouts' rows locked and looks at where they stand, so that of two
processes with an outcome one records it and the other sees it recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.ledger.postings import post
from app.platform.payouts.legs import Change, Landed, Leg, Refusal
from app.platform.payouts.models import (
    MOVES,
    AttemptOutcome,
    Payout,
    PayoutAttempt,
    PayoutStatus,
    payouts,
)
from app.platform.payouts.notices import payouts_moved
from app.switchyard.context import Context
from app.switchyard.db import canonical_json
from app.switchyard.errors import NonRetriable, SwitchyardError

KEY_EXPIRED = "key_expired"
"""The code of an attempt whose key outlived its window without an effect."""
OPEN = (AttemptOutcome.SENDING, AttemptOutcome.UNKNOWN)
_S = PayoutStatus
_SETTLED = (_S.PAID, _S.FAILED, _S.BANK_FAILED, _S.REVERSED)


class PayoutMoved(SwitchyardError):
    """Another process moved the payout on meanwhile; trying again sees it where it is."""

    status = 409
    title = "Payout moved"


Try = tuple[Payout, PayoutAttempt]
"""A payout and the attempt at one of its legs that is (re)sent."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of sending: made, refused, or an error that leaves it open."""

    payout: Payout
    attempt: PayoutAttempt
    end: Landed | Refusal | Exception


def open_attempts(own: Session, leg: Leg, chosen: Sequence[Payout], now: datetime) -> list[Try]:
    """An attempt for each of the payouts, which the caller holds locked: a new one for who is
    ready, the open one for who is being sent. On record once `own` commits."""
    A = PayoutAttempt
    mine = (A.payout_id.in_([payout.id for payout in chosen]), A.leg == leg.name)
    # In the order of their numbers: of each payout the last one stays.
    latest = {one.payout_id: one for one in own.scalars(select(A).where(*mine).order_by(A.n))}
    tries, changes = list[Try](), dict[str, Change]()
    for payout in chosen:
        last = latest.get(payout.id)
        if payout.status == leg.ready:
            last = _new(own, leg, payout, 1 if last is None else last.n + 1, now)
            changes[payout.id] = Change(leg.sending)
        if last is None:
            raise NonRetriable(
                f"payout {payout.id} is {payout.status} but has no attempt on record"
            )
        tries.append((payout, last))
    _move(own, leg.ready, changes, leg, now)
    return tries


def replace(ctx: Context, leg: Leg, payout: Payout, old: PayoutAttempt) -> PayoutAttempt:
    """A new attempt in place of one whose key is too old and which Stripe knows nothing of.

    Raises PayoutMoved where another process did that already.
    """
    now = ctx.now()
    with ctx.transaction() as own:
        own.execute(select(Payout.id).where(Payout.id == payout.id).with_for_update())
        if not _close(own, old.key, now, AttemptOutcome.REFUSED, code=KEY_EXPIRED):
            raise PayoutMoved(f"payout {payout.id}: another process goes on with it")
        return _new(own, leg, payout, old.n + 1, now)


def note_unknown(ctx: Context, unclear: Sequence[Sent]) -> None:
    """Put on record, at once, that these were sent and their outcome is not known."""
    if not unclear:
        return
    now, ids = ctx.now(), [one.payout.id for one in unclear]
    with ctx.transaction() as own:
        for one in unclear:
            _close(own, one.attempt.key, now, AttemptOutcome.UNKNOWN, message=str(one.end))
        own.execute(update(Payout).where(Payout.id.in_(ids)).values(updated_at=now))


def record(tx: Session, leg: Leg, ends: Sequence[Sent], now: datetime) -> dict[str, PayoutStatus]:
    """Write what came of the attempts; the payouts' new statuses by id.

    What another process has recorded meanwhile is left as it is, and not in the answer.
    """
    ends = [one for one in ends if not isinstance(one.end, Exception)]
    if not ends:
        return {}
    A = PayoutAttempt
    standing = _locked(tx, [one.payout.id for one in ends])
    keys = A.key.in_([one.attempt.key for one in ends])
    open_ = set(tx.scalars(select(A.key).where(keys, A.outcome.in_(OPEN))))
    changes, closed = dict[str, Change](), list[dict[str, Any]]()
    for one in ends:
        status, manual = standing[one.payout.id]
        if status != leg.sending or one.attempt.key not in open_:
            continue
        row: dict[str, Any] = {"key": one.attempt.key, "updated_at": now}
        if isinstance(one.end, Landed):
            changes[one.payout.id] = leg.landed(one.payout, one.end, manual, now)
            row |= {"outcome": AttemptOutcome.LANDED, "object_id": one.end.object_id}
        elif isinstance(one.end, Refusal):
            changes[one.payout.id] = leg.refused(one.payout, one.attempt, one.end, now)
            said = {"code": one.end.code[:100], "message": one.end.message}
            row |= {"outcome": AttemptOutcome.REFUSED, **said}
        closed.append(row)
    if closed:
        tx.execute(update(A), closed)
    apply(tx, leg.sending, changes, leg, now)
    return {id_: change.status for id_, change in changes.items()}


def apply(
    tx: Session, old: PayoutStatus, changes: Mapping[str, Change], leg: Leg, now: datetime
) -> None:
    """Move locked payouts on from `old` and post what goes with it.

    Raises ValueError for a move that MOVES does not allow.
    """
    if changes:
        _move(tx, old, changes, leg, now)
        post(tx, [posting for change in changes.values() for posting in change.postings])
        payouts_moved(tx, changes, now)


def _move(
    tx: Session, old: PayoutStatus, changes: Mapping[str, Change], leg: Leg, now: datetime
) -> None:
    plain, named = list[dict[str, Any]](), list[dict[str, Any]]()
    for id_, change in changes.items():
        if change.status not in MOVES[old]:
            raise ValueError(f"a payout does not go from {old} to {change.status}")
        row = {
            "b_id": id_,
            "status": change.status,
            "reason": change.reason and change.reason[:100],
            "settled_at": now if change.status in _SETTLED else None,
            "updated_at": now,
        }
        if change.object_id is None:
            plain.append(row)
        else:
            named.append({**row, leg.column: change.object_id})
    standing = (payouts.c.id == bindparam("b_id"), payouts.c.status == old)
    for rows in filter(None, (plain, named)):
        tx.connection().execute(update(payouts).where(*standing), rows)


def _locked(tx: Session, ids: Sequence[str]) -> dict[str, tuple[PayoutStatus, bool]]:
    rows = tx.execute(
        select(Payout.id, Payout.status, Creator.manual_payouts)
        .join(Creator, Creator.id == Payout.creator_id)
        .where(Payout.id.in_(ids))
        .order_by(Payout.id)
        .with_for_update(of=Payout)
    )
    return {row[0]: (PayoutStatus(row[1]), row[2]) for row in rows}


def _close(own: Session, key: str, now: datetime, outcome: AttemptOutcome, **said: str) -> bool:
    """Whether it was open until then."""
    mine = (PayoutAttempt.key == key, PayoutAttempt.outcome.in_(OPEN))
    values = {"outcome": outcome, "updated_at": now, **said}
    return own.connection().execute(update(PayoutAttempt).where(*mine).values(values)).rowcount == 1


def _new(own: Session, leg: Leg, payout: Payout, n: int, now: datetime) -> PayoutAttempt:
    key = leg.key(payout, n)
    attempt = PayoutAttempt(
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

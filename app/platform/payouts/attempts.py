"""The attempts at a payout's legs, and what comes of them: on record, each written once.

Whoever writes holds the payouts' rows locked and looks at where they stand, so that of two
processes with an outcome one records it and the other finds it recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, insert, or_, select, update
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
    attempts,
    payouts,
)
from app.platform.payouts.notices import payouts_moved
from app.switchyard.context import Context
from app.switchyard.db import canonical_json
from app.switchyard.errors import SwitchyardError
from app.switchyard.job_errors import NonRetriable

KEY_EXPIRED = "key_expired"
"""The code of an attempt whose key outlived its window without an effect."""
OPEN = (AttemptOutcome.SENDING, AttemptOutcome.UNKNOWN)
_SETTLED = (
    PayoutStatus.PAID,
    PayoutStatus.FAILED,
    PayoutStatus.BANK_FAILED,
    PayoutStatus.REVERSED,
)


class PayoutMoved(SwitchyardError):
    """Another process moved the payout on meanwhile; trying again finds it where it is."""

    status = 409
    title = "Payout moved"


@dataclass(frozen=True, slots=True)
class Try:
    """A payout and the attempt at one of its legs that is (re)sent."""

    payout: Payout
    attempt: PayoutAttempt


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of sending: made, refused, or an error that leaves it open."""

    payout: Payout
    attempt: PayoutAttempt
    end: Landed | Refusal | Exception


def open_attempts(own: Session, leg: Leg, chosen: Sequence[Payout], now: datetime) -> list[Try]:
    """An attempt for each of the payouts, which the caller holds locked: a new one for who is
    ready, the open one for who is being sent. On record once `own` commits."""
    latest = _latest(own, leg, [payout.id for payout in chosen])
    made: list[PayoutAttempt] = []
    tries: list[Try] = []
    for payout in chosen:
        last = latest.get(payout.id)
        if payout.status == leg.ready:
            last = _new(leg, payout, 1 if last is None else last.n + 1, now)
            made.append(last)
        if last is None:
            raise NonRetriable(
                f"payout {payout.id} is {payout.status} but has no attempt on record"
            )
        tries.append(Try(payout, last))
    if made:
        ids = [attempt.payout_id for attempt in made]
        _move(own, leg.ready, {id_: Change(leg.sending) for id_ in ids}, leg, now)
        own.execute(insert(attempts), [_row(attempt) for attempt in made])
    return tries


def replace(ctx: Context, leg: Leg, payout: Payout, old: PayoutAttempt) -> PayoutAttempt:
    """A new attempt in place of one whose key is too old and which Stripe knows nothing of.

    Raises PayoutMoved where another process did that already.
    """
    now = ctx.now()
    with ctx.transaction() as own:
        own.execute(select(Payout.id).where(Payout.id == payout.id).with_for_update())
        closed = own.connection().execute(
            update(attempts)
            .where(PayoutAttempt.key == old.key, PayoutAttempt.outcome.in_(OPEN))
            .values(outcome=AttemptOutcome.REFUSED, code=KEY_EXPIRED, updated_at=now)
        )
        if closed.rowcount != 1:
            raise PayoutMoved(f"payout {payout.id}: another process goes on with it")
        new = _new(leg, payout, old.n + 1, now)
        own.execute(insert(attempts), [_row(new)])
    return new


def note_unknown(ctx: Context, unclear: Sequence[Sent]) -> None:
    """Put on record, at once, that these were sent and their outcome is not known."""
    if not unclear:
        return
    now = ctx.now()
    # Not IN: SQLAlchemy expands that for a single row of parameters only.
    still_open = or_(*(attempts.c.outcome == outcome.value for outcome in OPEN))
    with ctx.transaction() as own:
        own.connection().execute(
            update(attempts)
            .where(attempts.c.key == bindparam("b_key"), still_open)
            .values(
                outcome=AttemptOutcome.UNKNOWN.value, message=bindparam("b_message"), updated_at=now
            ),
            [{"b_key": one.attempt.key, "b_message": str(one.end)} for one in unclear],
        )
        ids = [one.payout.id for one in unclear]
        own.execute(update(payouts).where(Payout.id.in_(ids)).values(updated_at=now))


def record(tx: Session, leg: Leg, ends: Sequence[Sent], now: datetime) -> dict[str, PayoutStatus]:
    """Write what came of the attempts; the payouts' new statuses by id.

    What another process has recorded meanwhile is left as it is, and not in the answer.
    """
    ends = [one for one in ends if not isinstance(one.end, Exception)]
    if not ends:
        return {}
    standing = _locked(tx, [one.payout.id for one in ends])
    keys = [one.attempt.key for one in ends]
    open_ = set(
        tx.scalars(
            select(PayoutAttempt.key).where(
                PayoutAttempt.key.in_(keys), PayoutAttempt.outcome.in_(OPEN)
            )
        )
    )
    changes: dict[str, Change] = {}
    closed: list[dict[str, str | None]] = []
    for one in ends:
        payout = one.payout
        status, manual = standing[payout.id]
        if status != leg.sending or one.attempt.key not in open_:
            continue
        if isinstance(one.end, Landed):
            changes[payout.id] = leg.landed(payout, one.end, manual, now)
            closed.append(_closed(one, AttemptOutcome.LANDED, one.end.object_id, None, None))
        elif isinstance(one.end, Refusal):
            no = one.end
            changes[payout.id] = leg.refused(payout, one.attempt, no, now)
            closed.append(_closed(one, AttemptOutcome.REFUSED, None, no.code, no.message))
    if closed:
        tx.connection().execute(_CLOSE, [row | {"b_now": now} for row in closed])
    apply(tx, leg.sending, changes, leg, now)
    return {id_: change.status for id_, change in changes.items()}


def apply(
    tx: Session, old: PayoutStatus, changes: dict[str, Change], leg: Leg, now: datetime
) -> None:
    """Move locked payouts on from `old` and post what goes with it.

    Raises ValueError for a move that MOVES does not allow.
    """
    if changes:
        _move(tx, old, changes, leg, now)
        post(tx, [posting for change in changes.values() for posting in change.postings])
        payouts_moved(tx, changes, now)


def _move(
    tx: Session, old: PayoutStatus, changes: dict[str, Change], leg: Leg, now: datetime
) -> None:
    for change in changes.values():
        if change.status not in MOVES[old]:
            raise ValueError(f"a payout does not go from {old} to {change.status}")
    column = payouts.c[leg.column]
    tx.connection().execute(
        update(payouts)
        .where(payouts.c.id == bindparam("b_id"), payouts.c.status == old.value)
        .values(
            {
                "status": bindparam("b_status"),
                "reason": bindparam("b_reason"),
                "settled_at": bindparam("b_settled", type_=payouts.c.settled_at.type),
                "updated_at": now,
                leg.column: func.coalesce(bindparam("b_object", type_=column.type), column),
            }
        ),
        [
            {
                "b_id": id_,
                "b_status": change.status.value,
                "b_reason": change.reason and change.reason[:100],
                "b_settled": now if change.status in _SETTLED else None,
                "b_object": change.object_id,
            }
            for id_, change in changes.items()
        ],
    )


def _locked(tx: Session, ids: Sequence[str]) -> dict[str, tuple[PayoutStatus, bool]]:
    rows = tx.execute(
        select(Payout.id, Payout.status, Creator.manual_payouts)
        .join(Creator, Creator.id == Payout.creator_id)
        .where(Payout.id.in_(ids))
        .order_by(Payout.id)
        .with_for_update(of=Payout)
    )
    return {row[0]: (PayoutStatus(row[1]), row[2]) for row in rows}


def _latest(own: Session, leg: Leg, ids: Sequence[str]) -> dict[str, PayoutAttempt]:
    a = PayoutAttempt
    newest = (
        select(a.payout_id, func.max(a.n).label("n"))
        .where(a.payout_id.in_(ids), a.leg == leg.name)
        .group_by(a.payout_id)
        .subquery()
    )
    found = own.scalars(
        select(a).join(
            newest, (a.payout_id == newest.c.payout_id) & (a.n == newest.c.n) & (a.leg == leg.name)
        )
    )
    return {attempt.payout_id: attempt for attempt in found}


def _new(leg: Leg, payout: Payout, n: int, now: datetime) -> PayoutAttempt:
    key = leg.key(payout, n)
    return PayoutAttempt(
        key=key,
        payout_id=payout.id,
        leg=leg.name,
        n=n,
        params=canonical_json(leg.params(payout, key)),
        first_sent_at=now,
        outcome=AttemptOutcome.SENDING,
        updated_at=now,
    )


def _row(attempt: PayoutAttempt) -> dict[str, object]:
    names = ("key", "payout_id", "leg", "n", "params", "first_sent_at", "outcome", "updated_at")
    return {name: getattr(attempt, name) for name in names}


def _closed(
    one: Sent, outcome: AttemptOutcome, object_id: str | None, code: str | None, said: str | None
) -> dict[str, str | None]:
    return {
        "b_key": one.attempt.key,
        "b_outcome": outcome.value,
        "b_object": object_id,
        "b_code": code and code[:100],
        "b_message": said,
    }


_CLOSE = (
    update(attempts)
    .where(attempts.c.key == bindparam("b_key"))
    .values(
        outcome=bindparam("b_outcome"),
        object_id=bindparam("b_object"),
        code=bindparam("b_code"),
        message=bindparam("b_message"),
        updated_at=bindparam("b_now", type_=attempts.c.updated_at.type),
    )
)

"""Statements made again, because a sale or refund of their month came late.

A creator's later statements open with another balance then, so all from that month on are looked
at: a month a step, and only those with other figures become a new version.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from app.platform.earnings.posting import post_earnings
from app.platform.earnings.rollup import following
from app.platform.statements.make import PAGE_SIZE, Found, Maker, keep
from app.platform.statements.models import LateStatement as L
from app.platform.statements.models import Statement as S


def make_late(tx: Session, ctx: Maker) -> dict[str, Any] | None:
    """Look at the earliest month of the next creators who have late ones; None when nobody has.

    Returns the `new` and `wrong` ids as make_page does. Raises StorageUnavailable, MadeMeanwhile.
    """
    with ctx.transaction() as reading:
        # What is in the sums must be in the ledger before that is read.
        post_earnings(reading)
        month = reading.scalar(select(func.min(L.month)))
        last = reading.scalar(select(func.max(S.month)))
        if month is None or last is None:
            return None
        chosen = select(L.creator_id, L.marks).where(L.month == month).order_by(L.creator_id)
        page = reading.execute(chosen.limit(PAGE_SIZE)).all()
        ids = [row.creator_id for row in page]
        found = Found.of(reading, ids, month, ctx.gateways.platform)
    # Nothing to state, and nothing stated so far, stays so.
    fine = [d for d in found.documents if d["currencies"] or d["creator"]["id"] in found.known]
    new = keep(tx, ctx, month, Found(fine, found.wrong, found.known))
    # Not those that were marked again meanwhile.
    done = tuple_(L.creator_id, L.marks).in_([tuple(row) for row in page])
    after = following(month)
    if after > last:
        tx.execute(delete(L).where(L.month == month, done))
    else:
        tx.execute(update(L).where(L.month == month, done).values(month=after))
    return {"month": f"{month:%Y-%m}", "new": new, "wrong": found.wrong}

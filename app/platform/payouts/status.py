"""A creator's own payouts: what became of them, and when another may be asked for by hand."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, and_, or_, select

from app.platform.ledger.postings import AnySelect, Tx, connection_of
from app.platform.payouts.models import MAX_ID_LENGTH
from app.platform.payouts.models import Payout as P
from app.switchyard.errors import BadInput, SwitchyardError

BY_HAND = 5
"""How many payouts a creator may request by hand in any WINDOW."""
WINDOW = timedelta(hours=1)
_ID = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_ID_LENGTH}}}")
_COLUMNS = (
    *(P.id, P.creator_id, P.status, P.amount, P.currency, P.method, P.reason),
    *(P.payout_date, P.requested_at, P.settled_at),
)

PayoutRow = Row[*tuple[Any, ...]]
"""A payout, as far as its creator may see it."""


class UnknownPayout(BadInput):
    """This creator has no such payout."""

    status = 404
    title = "Unknown payout"


class TooManyPayouts(SwitchyardError):
    """The creator has used up what may be requested by hand in an hour; nothing was written."""

    status = 429
    title = "Too many payouts"

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        """Seconds."""
        super().__init__(
            f"at most {BY_HAND} payouts can be requested in an hour; try again in {retry_after} s"
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some payouts, newest first."""

    payouts: list[PayoutRow]
    after: str | None
    """The id to go on after; None where there are no more."""


def find(tx: Tx, payout_id: str) -> PayoutRow | None:
    """The payout, whose ever it is."""
    return connection_of(tx).execute(select(*_COLUMNS).where(P.id == payout_id)).one_or_none()


def show(tx: Tx, creator_id: str, payout_id: str) -> PayoutRow:
    """The creator's payout. Raises UnknownPayout, for another creator's too."""
    # What is no id is not asked for: Postgres takes no NUL in a text.
    found = find(tx, payout_id) if _ID.fullmatch(payout_id) else None
    if found is None or found.creator_id != creator_id:
        raise UnknownPayout(f"you have no payout {payout_id!r}")
    return found


def page(tx: Tx, creator_id: str, limit: int, after: str | None) -> Page:
    """The creator's newest payouts, or those that come `after` one. Raises UnknownPayout."""
    last = None if after is None else show(tx, creator_id, after)
    found = list(connection_of(tx).execute(newest(creator_id, limit + 1, last)))
    more = len(found) > limit
    return Page(found[:limit], found[limit - 1].id if more else None)


def newest(creator_id: str, limit: int, last: PayoutRow | None) -> AnySelect:
    """The statement of page(): the newest payouts, older than `last`."""
    chosen = select(*_COLUMNS).where(P.creator_id == creator_id)
    if last is not None:
        chosen = chosen.where(
            # Implied by the next one, but a range that the index can start from.
            P.requested_at <= last.requested_at,
            or_(
                P.requested_at < last.requested_at,
                and_(P.requested_at == last.requested_at, P.id < last.id),
            ),
        )
    return chosen.order_by(P.requested_at.desc(), P.id.desc()).limit(limit)


def limit_by_hand(tx: Tx, creator_id: str, now: datetime) -> None:
    """Raises TooManyPayouts where another payout by hand would be one too many.

    The caller has the creator's row locked, else two requests could both be the last one.
    """
    first = connection_of(tx).scalar(in_the_way(creator_id, now))
    if first is not None:
        raise TooManyPayouts(math.ceil((first + WINDOW - now).total_seconds()))


def in_the_way(creator_id: str, now: datetime) -> Select[datetime]:
    """The statement of limit_by_hand(): when that request was made that must leave the window
    before another one; nothing where there is room."""
    return (
        select(P.requested_at)
        .where(P.creator_id == creator_id, P.payout_date.is_(None), P.requested_at > now - WINDOW)
        .order_by(P.requested_at.desc())
        .offset(BY_HAND - 1)
        .limit(1)
    )

"""What is booked of a payout, from where to where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from app.platform.ledger.postings import (
    CASH,
    EntryKind,
    Posting,
    connected_account,
    creator_account,
    hold_account,
)
from app.platform.payouts.models import Payout

Account = Callable[[Payout], str]


def _creator(payout: Payout) -> str:
    return creator_account(payout.creator_id)


def _hold(payout: Payout) -> str:
    return hold_account(payout.id)


def _connected(payout: Payout) -> str:
    return connected_account(payout.id)


def _cash(_payout: Payout) -> str:
    return CASH


_FLOWS: Mapping[EntryKind, tuple[Account, Account]] = {
    EntryKind.HOLD: (_creator, _hold),
    EntryKind.RELEASE: (_hold, _creator),
    EntryKind.TRANSFER: (_connected, _cash),
    EntryKind.SETTLE: (_hold, _connected),
    EntryKind.RETURN: (_connected, _hold),
    EntryKind.REVERSAL: (_cash, _connected),
}


def booked(
    kind: EntryKind, ref: str, payout: Payout, now: datetime, amount: int | None = None
) -> Posting:
    """The entry; of the whole payout, or of `amount` minor units of it."""
    debit, credit = (account(payout) for account in _FLOWS[kind])
    amount = payout.amount if amount is None else amount
    return Posting(kind, ref, debit, credit, payout.currency, amount, now)

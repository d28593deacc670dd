"""The two legs of a payout: what each sends to Stripe, where it is looked up, and what is booked.

Nothing is written here: an outcome's effects are returned as a Change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import BankPayout, Transfer
from app.platform.ledger.postings import CASH, CONNECTED, CREATOR, HOLD, EntryKind, Posting
from app.platform.payouts.differences import Kind
from app.platform.payouts.models import MOVES, LegName, Payout, PayoutAttempt, PayoutStatus
from app.switchyard.errors import SwitchyardError

CLOCK_SKEW = timedelta(minutes=5)
"""How far Stripe's clock may be behind ours."""
_S = PayoutStatus


class NeedsPerson(SwitchyardError, title="A person must look"):
    """Stripe has an unexpected object for this payout, or does not show it. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Change:
    """How an outcome changes its payout."""

    status: PayoutStatus
    reason: str | None = None
    object_id: str | None = None
    """Stripe's transfer or bank payout, where it is new."""
    postings: tuple[Posting, ...] = ()


def booked(
    kind: EntryKind, ref: str, payout: Payout, now: datetime, amount: int | None = None
) -> Posting:
    """An entry for the whole payout, or for `amount` minor units of it."""
    owner, hold = CREATOR + payout.creator_id, HOLD + payout.id
    connected = CONNECTED + payout.id
    debit, credit = {
        EntryKind.HOLD: (owner, hold),
        EntryKind.RELEASE: (hold, owner),
        EntryKind.TRANSFER: (connected, CASH),
        EntryKind.SETTLE: (hold, connected),
        EntryKind.RETURN: (connected, hold),
        EntryKind.REVERSAL: (CASH, connected),
    }[kind]
    amount = payout.amount if amount is None else amount
    return Posting(kind, ref, debit, credit, payout.currency, amount, now)


class TransferLeg:
    """From the platform's balance to the creator's Stripe account."""

    name = LegName.TRANSFER
    ready, sending = _S.REQUESTED, _S.SENDING
    column = "transfer_id"
    no_funds: str | None = "balance_insufficient"
    """Stripe's code where the platform's balance is too low. A top-up resolves it."""
    what, way = "transfer", "paid to"
    missing, differs = Kind.MISSING_AT_STRIPE, Kind.DIFFERS
    not_in_ledger = Kind.NOT_PAID_IN_LEDGER
    """A reconciliation's words for it, and the kinds of its differences."""

    def key(self, payout: Payout, n: int) -> str:
        """The idempotency key of attempt number `n`."""
        return f"{payout.id}-{n}"

    def params(self, payout: Payout, key: str) -> dict[str, Any]:
        """The parameters, fixed with the attempt because a resend must carry exactly the same."""
        return {
            "amount": payout.amount,
            "currency": payout.currency,
            "destination": payout.destination,
            "transfer_group": payout.id,
            "metadata": {"payout_id": payout.id, "creator_id": payout.creator_id},
        }

    def send(self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt) -> Transfer:
        """Send it once. Raises what the gateway raises."""
        return stripe.create_transfer(json.loads(attempt.params), attempt.key)

    def look_up(
        self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt
    ) -> Transfer | None:
        """The transfer in the payout's group, whichever attempt made it. Raises NeedsPerson."""
        there = list(stripe.list_transfers(transfer_group=payout.id))
        if not there:
            return None
        one, wanted = there[0], (payout.amount, payout.currency, payout.destination, 0)
        has = (one.amount, one.currency, one.destination, one.amount_reversed)
        if len(there) > 1 or has != wanted:
            ids = ", ".join(transfer.id for transfer in there)
            raise NeedsPerson(f"payout {payout.id}: not the transfer it should have: {ids}")
        return one

    def landed(
        self, payout: Payout, made: Transfer | BankPayout, manual: bool, now: datetime
    ) -> Change:
        """The effects of a transfer. With `manual`, the platform sends the money on to the bank;
        otherwise Stripe's schedule does."""
        moved = booked(EntryKind.TRANSFER, made.id, payout, now)
        if manual:
            return Change(_S.TRANSFERRED, None, made.id, (moved,))
        settled = booked(EntryKind.SETTLE, made.id, payout, now)
        return Change(_S.PAID, None, made.id, (moved, settled))

    def refused(self, payout: Payout, key: str, code: str, now: datetime) -> Change:
        """The effects of a refusal. A payout that the balance did not cover keeps its hold."""
        if code == self.no_funds:
            return Change(_S.REQUESTED, code)
        return Change(_S.FAILED, code, None, (booked(EntryKind.RELEASE, key, payout, now),))


class BankLeg:
    """From the creator's Stripe account to their bank. Its methods are those of TransferLeg."""

    name = LegName.BANK
    ready, sending = _S.TRANSFERRED, _S.PAYING
    column = "bank_payout_id"
    no_funds: str | None = None
    what, way = "bank payout", "from"
    missing, differs = Kind.BANK_MISSING, Kind.BANK_DIFFERS
    not_in_ledger = Kind.BANK_NOT_IN_LEDGER

    def key(self, payout: Payout, n: int) -> str:
        """The idempotency key. Ids contain no tilde, so that it is never a transfer's key."""
        return f"{payout.id}~bank-{n}"

    def params(self, payout: Payout, key: str) -> dict[str, Any]:
        """The parameters. The metadata has the key, as the only means to find the payout again."""
        return {
            "amount": payout.amount,
            "currency": payout.currency,
            "method": payout.method,
            "metadata": {"payout_id": payout.id, "attempt": key},
        }

    def send(self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt) -> BankPayout:
        return stripe.create_payout(payout.destination, json.loads(attempt.params), attempt.key)

    def look_up(
        self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt
    ) -> BankPayout | None:
        """The attempt's own bank payout. Those of earlier attempts came back and do not count."""
        every = stripe.list_payouts(payout.destination, attempt.first_sent_at - CLOCK_SKEW)
        own = [bank for bank in every if bank.metadata.get("attempt") == attempt.key]
        if len(own) > 1:
            ids = ", ".join(bank.id for bank in own)
            raise NeedsPerson(f"payout {payout.id}: more than one bank payout: {ids}")
        return own[0] if own else None

    def landed(
        self, payout: Payout, made: Transfer | BankPayout, manual: bool, now: datetime
    ) -> Change:
        assert isinstance(made, BankPayout)
        change = at_the_bank(payout, made, now)
        assert change is not None
        return change

    def refused(self, payout: Payout, key: str, code: str, now: datetime) -> Change:
        """The money stays on the creator's Stripe account."""
        return Change(_S.BANK_FAILED, code)


TRANSFER, BANK = TransferLeg(), BankLeg()
Leg = TransferLeg | BankLeg


def at_the_bank(payout: Payout, bank: BankPayout, now: datetime) -> Change | None:
    """The effects of the bank payout's status at Stripe, or None.

    It goes from pending through in_transit to paid, and from any of these to failed
    (https://docs.stripe.com/api/payouts/object). A status that is behind is ignored.
    """
    old, postings = PayoutStatus(payout.status), tuple[Posting, ...]()
    status = _S.PAID if bank.status == "paid" else _S.IN_TRANSIT
    if bank.came_back:
        status = _S.BANK_FAILED
    if status not in MOVES[old]:
        return None
    if status == _S.PAID:
        postings = (booked(EntryKind.SETTLE, bank.id, payout, now),)
    elif old == _S.PAID:
        postings = (booked(EntryKind.RETURN, bank.id, payout, now),)
    why = (bank.failure_code or bank.status) if bank.came_back else None
    return Change(status, why, bank.id, postings)

"""The two halves of a payout's way: what each sends to Stripe, where it looks it up, what it books.

Pure but for the calls: what an outcome changes comes back as a Change, and is written elsewhere.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.platform.gateways.stripe import BankPayout, StripeGateway
from app.platform.ledger.postings import EntryKind, Posting
from app.platform.payouts.booking import booked
from app.platform.payouts.models import LegName, Payout, PayoutAttempt, PayoutStatus
from app.switchyard.errors import SwitchyardError

CLOCK_SKEW = timedelta(minutes=5)
"""How far Stripe's clock may be behind ours."""
CAME_BACK = ("failed", "canceled")
"""Stripe's words for a bank payout whose money is on the account again."""


class NeedsPerson(SwitchyardError):
    """Stripe has something for this payout that it should not have; nothing was written."""

    title = "A person must look"


@dataclass(frozen=True, slots=True)
class Landed:
    """Stripe has made the object."""

    object_id: str
    bank: BankPayout | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stripe's definite no."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an outcome does to its payout."""

    status: PayoutStatus
    reason: str | None = None
    object_id: str | None = None
    postings: tuple[Posting, ...] = ()


class Leg(ABC):
    """One half of the way."""

    name: LegName
    ready: PayoutStatus
    sending: PayoutStatus
    column: str
    """The payout's column for the object that Stripe makes."""
    no_funds: str | None = None
    """Stripe's code where what is missing is the platform's money: a top-up mends it."""

    @abstractmethod
    def key(self, payout: Payout, n: int) -> str:
        """The idempotency key of try number `n`."""

    @abstractmethod
    def params(self, payout: Payout, key: str) -> dict[str, Any]:
        """What is sent: fixed with the attempt, since a resend must carry exactly the same."""

    @abstractmethod
    def send(self, stripe: StripeGateway, attempt: PayoutAttempt) -> Landed:
        """Send it once. Raises what the gateway raises."""

    @abstractmethod
    def look_up(
        self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt
    ) -> Landed | None:
        """What Stripe has of it already. Raises NeedsPerson, and what the gateway raises."""

    @abstractmethod
    def landed(self, payout: Payout, landed: Landed, manual: bool, now: datetime) -> Change:
        """`manual`: whether it is for the platform to send the account's money to its bank."""

    @abstractmethod
    def refused(self, payout: Payout, attempt: PayoutAttempt, no: Refusal, now: datetime) -> Change:
        """What a definite refusal changes."""

    def affordable(self, stripe: StripeGateway) -> Mapping[str, int] | None:
        """What may be sent at most now, minor units by currency; None: no limit is known."""
        return None


class TransferLeg(Leg):
    """From the platform's balance to the creator's Stripe account."""

    name = LegName.TRANSFER
    ready, sending = PayoutStatus.REQUESTED, PayoutStatus.SENDING
    column = "transfer_id"
    no_funds = "balance_insufficient"

    def key(self, payout: Payout, n: int) -> str:
        return f"{payout.id}-{n}"

    def params(self, payout: Payout, key: str) -> dict[str, Any]:
        return {
            "amount_minor": payout.amount,
            "currency": payout.currency,
            "destination": payout.destination,
            "transfer_group": payout.id,
            "metadata": {"payout_id": payout.id, "creator_id": payout.creator_id},
        }

    def send(self, stripe: StripeGateway, attempt: PayoutAttempt) -> Landed:
        made = stripe.create_transfer(**json.loads(attempt.params), idempotency_key=attempt.key)
        return Landed(made.id)

    def look_up(
        self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt
    ) -> Landed | None:
        """The transfer of the payout's group, whichever attempt made it."""
        there = list(stripe.list_transfers(transfer_group=payout.id))
        if not there:
            return None
        one, wanted = there[0], (payout.amount, payout.currency, payout.destination, 0)
        has = (one.amount_minor, one.currency, one.destination, one.amount_reversed_minor)
        if len(there) > 1 or has != wanted:
            ids = ", ".join(transfer.id for transfer in there)
            raise NeedsPerson(f"payout {payout.id}: not the transfer it should have: {ids}")
        return Landed(one.id)

    def landed(self, payout: Payout, landed: Landed, manual: bool, now: datetime) -> Change:
        """Where Stripe's own schedule does the rest, the payout is paid with it."""
        id_ = landed.object_id
        moved = booked(EntryKind.TRANSFER, id_, payout, now)
        if manual:
            return Change(PayoutStatus.TRANSFERRED, None, id_, (moved,))
        settled = booked(EntryKind.SETTLE, id_, payout, now)
        return Change(PayoutStatus.PAID, None, id_, (moved, settled))

    def refused(self, payout: Payout, attempt: PayoutAttempt, no: Refusal, now: datetime) -> Change:
        """What the platform's balance did not cover stays set aside and waits."""
        if no.code == self.no_funds:
            return Change(PayoutStatus.REQUESTED, no.code)
        back = booked(EntryKind.RELEASE, attempt.key, payout, now)
        return Change(PayoutStatus.FAILED, no.code, None, (back,))

    def affordable(self, stripe: StripeGateway) -> Mapping[str, int]:
        return stripe.platform_balance().available


class BankLeg(Leg):
    """From the creator's Stripe account to their bank."""

    name = LegName.BANK
    ready, sending = PayoutStatus.TRANSFERRED, PayoutStatus.PAYING
    column = "bank_payout_id"

    def key(self, payout: Payout, n: int) -> str:
        """No payout's id has a tilde, so no transfer's key is like it."""
        return f"{payout.id}~bank-{n}"

    def params(self, payout: Payout, key: str) -> dict[str, Any]:
        """Stripe lists payouts by nothing else that names one: the metadata has the key."""
        return {
            "account": payout.destination,
            "amount_minor": payout.amount,
            "currency": payout.currency,
            "method": payout.method,
            "metadata": {"payout_id": payout.id, "attempt": key},
        }

    def send(self, stripe: StripeGateway, attempt: PayoutAttempt) -> Landed:
        made = stripe.create_payout(**json.loads(attempt.params), idempotency_key=attempt.key)
        return Landed(made.id, made)

    def look_up(
        self, stripe: StripeGateway, payout: Payout, attempt: PayoutAttempt
    ) -> Landed | None:
        """The attempt's own bank payout: earlier ones came back, and count for nothing."""
        since = attempt.first_sent_at - CLOCK_SKEW
        every = stripe.list_payouts(payout.destination, since)
        own = [bank for bank in every if bank.metadata.get("attempt") == attempt.key]
        if len(own) > 1:
            ids = ", ".join(bank.id for bank in own)
            raise NeedsPerson(f"payout {payout.id}: more than one bank payout: {ids}")
        return Landed(own[0].id, own[0]) if own else None

    def landed(self, payout: Payout, landed: Landed, manual: bool, now: datetime) -> Change:
        bank, id_ = landed.bank, landed.object_id
        assert bank is not None
        if bank.status == "paid":
            return Change(
                PayoutStatus.PAID, None, id_, (booked(EntryKind.SETTLE, id_, payout, now),)
            )
        if bank.status in CAME_BACK:
            return Change(PayoutStatus.BANK_FAILED, bank.failure_code or bank.status, id_)
        return Change(PayoutStatus.IN_TRANSIT, None, id_)

    def refused(self, payout: Payout, attempt: PayoutAttempt, no: Refusal, now: datetime) -> Change:
        """The money stays on the creator's Stripe account."""
        return Change(PayoutStatus.BANK_FAILED, no.code)


TRANSFER, BANK = TransferLeg(), BankLeg()


def followed(payout: Payout, bank: BankPayout, now: datetime) -> Change | None:
    """What Stripe's word on the payout's latest bank payout changes; None: nothing.

    Stripe goes from pending over in_transit to paid, and from each of them, paid included, to
    failed (https://docs.stripe.com/api/payouts/object): a word that came late is behind and ignored
    """
    if bank.id != payout.bank_payout_id:
        return None
    if bank.status in CAME_BACK:
        why = bank.failure_code or bank.status
        if payout.status == PayoutStatus.IN_TRANSIT:
            return Change(PayoutStatus.BANK_FAILED, why)
        if payout.status == PayoutStatus.PAID:
            back = booked(EntryKind.RETURN, bank.id, payout, now)
            return Change(PayoutStatus.BANK_FAILED, why, None, (back,))
    elif bank.status == "paid" and payout.status == PayoutStatus.IN_TRANSIT:
        settled = booked(EntryKind.SETTLE, bank.id, payout, now)
        return Change(PayoutStatus.PAID, None, None, (settled,))
    return None


def covered(
    payouts: Sequence[Payout], leg: Leg, funds: Mapping[str, int] | None
) -> tuple[list[Payout], list[Payout]]:
    """Those that may be sent, and those that must wait for a top-up of their currency.

    What is being sent already goes first: it may have left the balance or not, and its key decides.
    From the first that does not fit on, a currency waits: nobody is passed by a smaller payout.
    """
    if funds is None:
        return list(payouts), []
    spent, dry = Counter[str](), set[str]()
    sent, waiting = list[Payout](), list[Payout]()
    for payout in payouts:
        if payout.status == leg.ready:
            if spent[payout.currency] + payout.amount > funds.get(payout.currency, 0):
                dry.add(payout.currency)
            if payout.currency in dry:
                waiting.append(payout)
                continue
            spent[payout.currency] += payout.amount
        sent.append(payout)
    return sent, waiting

"""What the Stripe gateway gives back: plain data, read from the library's objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import stripe

REASON_LENGTH = 100


@dataclass(frozen=True)
class Transfer:
    """Money moved from the platform's balance to a connected account's."""

    id: str
    amount_minor: int
    currency: str
    destination: str
    transfer_group: str | None
    created: datetime
    """UTC, whole seconds."""
    amount_reversed_minor: int = 0


class Gates(NamedTuple):
    """What decides whether a connected account can be paid, and how."""

    payouts_enabled: bool
    transfers_active: bool
    disabled_reason: str | None
    manual_payouts: bool
    """Whether its money goes to the bank only on request; else Stripe sends it on a schedule."""


class Account(NamedTuple):
    """A connected account."""

    id: str
    gates: Gates


@dataclass(frozen=True)
class Balance:
    """An account's money at Stripe; minor units by currency."""

    available: dict[str, int]
    """What can be sent now; below zero where more was taken back than there was."""
    pending: dict[str, int]
    """From charges, and on its way to available."""

    @property
    def total(self) -> dict[str, int]:
        """Both together."""
        total = Counter(self.available)
        total.update(self.pending)
        return dict(total)


@dataclass(frozen=True)
class BankPayout:
    """Money on its way from an account's balance to its bank.

    It fails independently of the transfer before it, and even a paid one can still turn failed.
    """

    id: str
    amount_minor: int
    currency: str
    status: str
    """pending, in_transit, paid, failed or canceled."""
    failure_code: str | None
    """Such as `account_closed`, where the bank refused it."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def came_back(self) -> bool:
        """Whether its money is on the account again."""
        return self.status in ("failed", "canceled")


def read_transfer(given: stripe.Transfer) -> Transfer:
    """The transfer. Raises TypeError where it is not what Stripe gives without expansion."""
    if not isinstance(given.destination, str):
        raise TypeError("destination is not an id")
    return Transfer(
        id=given.id,
        amount_minor=given.amount,
        currency=given.currency,
        destination=given.destination,
        transfer_group=given.transfer_group,
        created=datetime.fromtimestamp(given.created, UTC),
        amount_reversed_minor=given.amount_reversed,
    )


def read_account(given: stripe.Account) -> Account:
    """The account. Where it does not show its payout schedule, that is manual."""
    shown = given.to_dict()
    capabilities, requirements = shown.get("capabilities") or {}, shown.get("requirements") or {}
    settings = shown.get("settings") or {}
    schedule = (settings.get("payouts") or {}).get("schedule") or {}
    reason = requirements.get("disabled_reason")
    return Account(
        given.id,
        Gates(
            payouts_enabled=bool(given.payouts_enabled),
            transfers_active=capabilities.get("transfers") == "active",
            disabled_reason=reason and reason[:REASON_LENGTH],
            manual_payouts=schedule.get("interval") in (None, "manual"),
        ),
    )


def read_balance(given: stripe.Balance) -> Balance:
    """The balance."""
    return Balance(
        available={entry.currency: entry.amount for entry in given.available},
        pending={entry.currency: entry.amount for entry in given.pending},
    )


def read_bank_payout(given: stripe.Payout) -> BankPayout:
    """The bank payout."""
    return BankPayout(
        id=given.id,
        amount_minor=given.amount,
        currency=given.currency,
        status=given.status,
        failure_code=given.failure_code,
        metadata=dict(given.metadata.to_dict()) if given.metadata else {},
    )

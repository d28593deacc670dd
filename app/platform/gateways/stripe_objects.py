"""What the Stripe gateway gives back: plain data, read from the library's objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import stripe


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
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Account:
    """A connected account, as far as it decides whether its owner can be paid."""

    id: str
    country: str | None
    default_currency: str | None
    payouts_enabled: bool
    charges_enabled: bool
    transfers: str
    """State of the transfers capability: active, inactive, pending, or unrequested."""
    disabled_reason: str | None
    manual_payouts: bool = True
    """Whether its money goes to the bank only when told to; else Stripe sends it on a schedule."""

    @property
    def payable(self) -> bool:
        """Whether a transfer to it and a payout from it would be let through."""
        return self.payouts_enabled and self.transfers == "active" and not self.disabled_reason


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
        both = self.available.keys() | self.pending.keys()
        return {one: self.available.get(one, 0) + self.pending.get(one, 0) for one in both}


@dataclass(frozen=True)
class BankPayout:
    """Money on its way from an account's balance to its bank.

    It fails independently of the transfer before it, and even a paid one can still turn failed.
    """

    id: str
    account: str
    amount_minor: int
    currency: str
    status: str
    """pending, in_transit, paid, failed or canceled."""
    failure_code: str | None
    """Such as `account_closed`, where the bank refused it."""
    created: datetime
    """UTC, whole seconds."""
    arrives: datetime
    """When the bank is expected to have it."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_transfer(found: stripe.Transfer) -> Transfer:
    """The transfer. Raises TypeError where it is not what Stripe gives without expansion."""
    destination = found.destination
    if not isinstance(destination, str):
        raise TypeError("destination is not an id")
    return Transfer(
        id=found.id,
        amount_minor=found.amount,
        currency=found.currency,
        destination=destination,
        transfer_group=found.transfer_group,
        created=datetime.fromtimestamp(found.created, UTC),
        amount_reversed_minor=found.amount_reversed,
        metadata=_metadata(found),
    )


def read_account(found: stripe.Account) -> Account:
    """The account's gates."""
    capabilities = found.capabilities.to_dict() if found.capabilities else {}
    requirements = found.requirements
    return Account(
        id=found.id,
        country=found.country,
        default_currency=found.default_currency,
        payouts_enabled=bool(found.payouts_enabled),
        charges_enabled=bool(found.charges_enabled),
        transfers=capabilities.get("transfers", "unrequested"),
        disabled_reason=requirements.disabled_reason if requirements else None,
        manual_payouts=_payout_interval(found) in (None, "manual"),
    )


def _payout_interval(found: stripe.Account) -> str | None:
    """Its payout schedule, which accounts with settings kept elsewhere do not show."""
    part: object = found
    for name in ("settings", "payouts", "schedule", "interval"):
        part = getattr(part, name, None)
    return part if isinstance(part, str) else None


def read_balance(found: stripe.Balance) -> Balance:
    """The balance."""
    return Balance(
        available={entry.currency: entry.amount for entry in found.available},
        pending={entry.currency: entry.amount for entry in found.pending},
    )


def read_bank_payout(account: str, found: stripe.Payout) -> BankPayout:
    """The payout of `account`, which the object itself does not name."""
    return BankPayout(
        id=found.id,
        account=account,
        amount_minor=found.amount,
        currency=found.currency,
        status=found.status,
        failure_code=found.failure_code,
        created=datetime.fromtimestamp(found.created, UTC),
        arrives=datetime.fromtimestamp(found.arrival_date, UTC),
        metadata=_metadata(found),
    )


def _metadata(found: stripe.Transfer | stripe.Payout) -> dict[str, str]:
    return dict(found.metadata.to_dict()) if found.metadata else {}

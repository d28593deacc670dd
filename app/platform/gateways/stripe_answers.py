"""The results of calls to Stripe, and errors by what the caller may safely do next.

Data have Stripe's own names (https://docs.stripe.com/api); amounts are in minor units. The errors
follow https://docs.stripe.com/api/idempotent_requests: a stored result is replayed, refusals and
500s included, while conflicts, 401 and 429 are not stored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator

from app.switchyard.errors import SwitchyardError

if TYPE_CHECKING:
    import stripe

REASON_LENGTH = 100


class _Given(BaseModel, frozen=True):
    @classmethod
    def read(cls, given: stripe.StripeObject) -> Self:
        """Read an unexpanded object of Stripe's. Raises ValueError for anything else."""
        return cls.model_validate(given.to_dict())


class Transfer(_Given):
    """Money moved from the platform's balance to that of a connected account."""

    id: str
    amount: int
    currency: str
    destination: str | None
    transfer_group: str | None
    created: datetime
    """UTC, whole seconds."""
    amount_reversed: int

    @property
    def came_back(self) -> bool:
        """Whether the whole transfer was reversed."""
        return self.amount_reversed >= self.amount


class BankPayout(_Given):
    """Money on its way from an account's balance to its bank.

    It fails independently of the transfer before it, and even a paid one can still turn failed.
    """

    id: str
    amount: int
    currency: str
    status: str
    """pending, in_transit, paid, failed or canceled."""
    failure_code: str | None
    """Such as `account_closed`, where the bank refused it."""
    created: datetime
    """UTC, whole seconds."""
    metadata: Annotated[dict[str, str], BeforeValidator(lambda given: given or {})] = {}

    @property
    def came_back(self) -> bool:
        """Whether its money returned to the account."""
        return self.status in ("failed", "canceled")


class Gates(NamedTuple):
    """The state that decides whether a connected account can be paid, and how."""

    payouts_enabled: bool
    transfers_active: bool
    disabled_reason: str | None
    manual_payouts: bool
    """Whether its money goes to the bank only on request, and not on Stripe's schedule."""


class Account(NamedTuple):
    """A connected account."""

    id: str
    gates: Gates

    @classmethod
    def read(cls, given: stripe.Account) -> Account:
        """The account. Where it shows no payout schedule, manual is assumed."""
        shown = given.to_dict()
        capabilities, settings = shown.get("capabilities") or {}, shown.get("settings") or {}
        schedule = (settings.get("payouts") or {}).get("schedule") or {}
        reason = (shown.get("requirements") or {}).get("disabled_reason")
        gates = Gates(
            payouts_enabled=bool(shown.get("payouts_enabled")),
            transfers_active=capabilities.get("transfers") == "active",
            disabled_reason=reason and reason[:REASON_LENGTH],
            manual_payouts=schedule.get("interval") in (None, "manual"),
        )
        return cls(given.id, gates)


@dataclass(frozen=True)
class Balance:
    """An account's money at Stripe, by currency."""

    available: dict[str, int]
    """The money that can be sent now. Negative where more was taken back than there was."""
    pending: dict[str, int]
    """The money from charges that is not available yet."""

    @classmethod
    def read(cls, given: stripe.Balance) -> Balance:
        """The balance."""
        return cls(
            available={entry.currency: entry.amount for entry in given.available},
            pending={entry.currency: entry.amount for entry in given.pending},
        )

    @property
    def total(self) -> dict[str, int]:
        """The sum of both."""
        total = Counter(self.available)
        total.update(self.pending)
        return dict(total)


class StripeError(SwitchyardError, status=502, title="Stripe call failed"):
    """A call to Stripe did not succeed."""


class StripeUnknownOutcome(StripeError, title="Stripe outcome unknown"):
    """After a timeout, lost connection, 5xx or 409, the call may have taken effect.

    Resend the same key with identical parameters. Once the key is 24 h old, look it up first.
    """


class StripeReplayedError(StripeUnknownOutcome):
    """An earlier 5xx, replayed for the key's whole life. Only Stripe's list shows the outcome."""


class StripeKeyReused(StripeUnknownOutcome):
    """The key was first used with other parameters. Look up the outcome of those."""


class StripeRefused(StripeError, status=422, title="Refused by Stripe"):
    """A definite refusal: this key had no effect and never will. Retry with a new key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """Stripe's code, such as `balance_insufficient`; `invalid_request` where it gave none."""
        self.message = message


class StripeRateLimited(StripeError, status=503, title="Stripe rate limit"):
    """429: this call was not executed. An earlier unknown outcome remains unknown."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("Stripe refused the call: too many requests")
        self.retry_after = retry_after
        """The seconds that Stripe asked to wait, if it did."""


class StripeMisconfigured(StripeError, status=500, title="Stripe is misconfigured"):
    """401 or 403: the API key is wrong or lacks a permission. Not executed; needs a person."""


class StripeWebhookRefused(StripeError, status=400, title="Webhook refused"):
    """The webhook is forged, too old or malformed. It had no effect."""

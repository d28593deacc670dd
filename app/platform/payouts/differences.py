"""The kinds of difference that a reconciliation can find, and what to do about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """A kind of difference."""

    MISSING_AT_STRIPE = "missing_at_stripe"
    NOT_PAID_IN_LEDGER = "not_paid_in_ledger"
    DIFFERS = "differs"
    """Amount, currency, destination or the transfer's id."""
    REVERSED = "reversed"
    PAID_TWICE = "paid_twice"
    BANK_MISSING = "bank_missing"
    BANK_DIFFERS = "bank_differs"
    """Amount, currency, or the bank payout's status."""
    BANK_NOT_IN_LEDGER = "bank_not_in_ledger"
    CASH_DIFFERS = "cash_differs"
    BOOKS_UNBALANCED = "books_unbalanced"


FIXES: Mapping[Kind, str] = {
    Kind.MISSING_AT_STRIPE: "see that STRIPE_API_KEY is the platform's; if it is, the creator was"
    " not paid: post the correction and pay by a new payout",
    Kind.NOT_PAID_IN_LEDGER: "run retry-failed-payouts for one that is sending; otherwise reverse"
    " the transfer at Stripe, or record it as a payout",
    Kind.DIFFERS: "compare the two in Stripe's dashboard; reverse what was wrong and post the rest",
    Kind.REVERSED: "find who reversed it; post the reversed amount back to the creator",
    Kind.PAID_TWICE: "reverse this transfer at Stripe; the ledger's own stays",
    Kind.BANK_MISSING: "see that STRIPE_API_KEY is the platform's; if it is, the money is still on"
    " the creator's Stripe account: pay it out from there in Stripe's dashboard",
    Kind.BANK_DIFFERS: "run reconcile-payouts, which takes over where Stripe says it stands; if it"
    " stays, compare the two in Stripe's dashboard",
    Kind.BANK_NOT_IN_LEDGER: "run retry-failed-payouts for one that is paying; otherwise see who"
    " made it: the creator's Stripe account may be short of the money",
    Kind.CASH_DIFFERS: "look for charges, top-ups and fees at Stripe that the ledger does not have",
    Kind.BOOKS_UNBALANCED: "pay nobody until the entry that is wrong is found and countered",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference, and what to do about it."""

    kind: Kind
    payout_id: str | None
    transfer_id: str | None
    detail: str
    fix: str


@dataclass(slots=True)
class Reconciliation:
    """What was compared, and its differences."""

    payouts: int = 0
    """Paid in the window, according to the ledger."""
    transfers: int = 0
    """Made in the window, according to Stripe."""
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether both sides agree."""
        return not self.differences

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"ok": self.ok, **asdict(self)}

    def counts(self) -> dict[str, Any]:
        """As JSON, with the differences counted by kind."""
        return self.document() | {"differences": Counter(d.kind.value for d in self.differences)}

    def add(
        self, kind: Kind, detail: str, payout: str | None = None, transfer: str | None = None
    ) -> None:
        """Add a difference."""
        self.differences.append(Difference(kind, payout, transfer, detail, FIXES[kind]))

"""Where a bad day would strike Stripe. Here all days are good; the tests have bad ones."""

from typing import NamedTuple

from app.local.stripe.errors import ApiError


class HangUp(Exception):
    """The connection is to be closed without an answer."""


class Target(NamedTuple):
    """What is struck; `key` is the idempotency key or empty, of a delivery the event's id."""

    method: str
    path: str
    """The URL's path, or the event's type."""
    account: str | None
    key: str


class Luck:
    """What happens to a request on its way, to a payout at its bank, and to an event."""

    def enter(self, target: Target) -> None:
        """Called before idempotency is looked at; raises ApiError or HangUp, and nothing is stored
        of either."""

    def execute(self, target: Target) -> ApiError | None:
        """Called when a request is executed, so never on a replay. Raises the ApiError that is
        stored instead of an effect; returns one that is stored beside it."""
        return None

    def leave(self, target: Target) -> None:
        """Called once the result stands, executed or replayed. Raises HangUp."""

    def ends(self, target: Target) -> tuple[list[str], str]:
        """How a new payout ends at its bank, status after status, and the failure's code."""
        return ["paid"], ""

    def delays(self, target: Target) -> list[float]:
        """In how many seconds to deliver an event: once, now."""
        return [0.0]


GOOD_LUCK = Luck()

"""Stripe's refusals, with the statuses and codes of its API, and where a bad day would strike."""

import json
from collections.abc import Mapping
from typing import NamedTuple

MESSAGES = {
    "balance_insufficient": "You have insufficient available funds in your Stripe account.",
    "idempotency_key_in_use": "There is currently another in-progress request using this "
    "Idempotency Key.",
    "rate_limit": "Request rate limit exceeded.",
}


class ApiError(Exception):
    """An answer other than success; `body` is the JSON that Stripe sends."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        error = {"message": message, "type": kind, "code": code, "param": param}
        self.body = json.dumps({"error": {name: text for name, text in error.items() if text}})


def refusal(code: str, status: int = 400, headers: Mapping[str, str] | None = None) -> ApiError:
    """A refusal of a well-formed request; 402 is of Stripe's type card_error."""
    kind = "card_error" if status == 402 else "invalid_request_error"
    message = MESSAGES.get(code, f"The request was refused: {code}.")
    return ApiError(status, message, code, kind=kind, headers=headers)


def missing(noun: str, id_: str, param: str, status: int = 400) -> ApiError:
    """404 for an object named in the path, 400 for one named in a parameter."""
    return ApiError(status, f"No such {noun}: '{id_}'", "resource_missing", param)


def no_access(key: str, account: str) -> ApiError:
    """403 for an account that is not the key's platform's."""
    message = f"The provided key '{masked(key)}' does not have access to account '{account}' (or "
    return ApiError(403, message + "that account does not exist).", "account_invalid")


def masked(key: str) -> str:
    """`key` as Stripe shows it in messages: its prefix and its last four characters."""
    hidden = max(0, len(key) - 12)
    return key[:8] + "*" * hidden + (key[-4:] if hidden else "")


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

"""Stripe's refusals, with the statuses, codes and messages its API answers with."""

from collections.abc import Mapping
from typing import Any

MESSAGES = {
    "rate_limit": "Request rate limit exceeded. Learn more about rate limits here "
    "https://stripe.com/docs/rate-limits.",
    "lock_timeout": "This object cannot be accessed right now because another API request or "
    "Stripe process is currently accessing it. If you see this error intermittently, retry the "
    "request.",
    "idempotency_key_in_use": "There is currently another in-progress request using this "
    "Idempotency Key.",
    "instant_payouts_unsupported": "This account's external account does not support Instant "
    "Payouts. Provide another debit card or bank account, or use a standard payout.",
    "payouts_not_allowed": "Cannot create payouts; please contact us via "
    "https://support.stripe.com/contact with details.",
    "balance_insufficient": "You have insufficient available funds in your Stripe account. Try "
    "adding funds directly to your available balance by creating Charges using the "
    "4000000000000077 test card. See: https://stripe.com/docs/testing#available-balance",
    "insufficient_capabilities_for_transfer": "Your destination account needs to have at least one "
    "of the following capabilities enabled: transfers, crypto_transfers, legacy_payments",
}


class ApiError(Exception):
    """An answer other than success; `body` is the JSON object Stripe sends."""

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
        self.headers = dict(headers or {})
        error: dict[str, Any] = {"message": message, "type": kind}
        if code is not None:
            error["code"] = code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param is not None:
            error["param"] = param
        self.body = {"error": error}


def refusal(code: str, status: int = 400, headers: Mapping[str, str] | None = None) -> ApiError:
    """A refusal of a well-formed request; 402 is of Stripe's type card_error."""
    kind = "card_error" if status == 402 else "invalid_request_error"
    message = MESSAGES.get(code, f"The request was refused: {code}.")
    return ApiError(status, message, code, kind=kind, headers=headers)


def missing(noun: str, id_: str, param: str, status: int = 400) -> ApiError:
    """404 for an object named in the path, 400 for one named in a parameter."""
    return ApiError(status, f"No such {noun}: '{id_}'", "resource_missing", param)


def no_access(key: str, account: str) -> ApiError:
    message = f"The provided key '{masked(key)}' does not have access to account '{account}' (or "
    message += "that account does not exist). Application access may have been revoked."
    return ApiError(403, message, "account_invalid")


def masked(key: str) -> str:
    """`key` as Stripe shows it in messages: its prefix and its last four characters."""
    hidden = max(0, len(key) - 12)
    return key[:8] + "*" * hidden + (key[-4:] if hidden else "")

"""Stripe's refusals, with the statuses and codes of its API."""

import json
from collections.abc import Mapping


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
    return ApiError(status, f"The request was refused: {code}.", code, kind=kind, headers=headers)


def missing(noun: str, id_: str, param: str, status: int = 400) -> ApiError:
    """404 for an object named in the path, 400 for one named in a parameter."""
    return ApiError(status, f"No such {noun}: '{id_}'", "resource_missing", param)


def no_access(account: str) -> ApiError:
    """403 for an account that is not the key's platform's."""
    message = f"The provided key does not have access to account '{account}' (or that account does"
    return ApiError(403, f"{message} not exist).", "account_invalid")

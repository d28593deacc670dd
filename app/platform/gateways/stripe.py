"""Stripe Connect, as this product uses it; the only place that calls Stripe's library."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import stripe

from app.platform.gateways.stripe_errors import (
    StripeError,
    StripeKeyReused,
    StripeMisconfigured,
    StripeRateLimited,
    StripeRefused,
    StripeReplayedError,
    StripeServerError,
    StripeUnknownOutcome,
    StripeWebhookRefused,
)
from app.platform.gateways.stripe_objects import (
    Account,
    Balance,
    BankPayout,
    Transfer,
    read_account,
    read_balance,
    read_bank_payout,
    read_transfer,
)
from app.platform.gateways.stripe_session import BoundedSession
from app.platform.gateways.stripe_webhooks import WebhookEvent, verify_webhook
from app.switchyard import effects

__all__ = [
    "Account",
    "Balance",
    "BankPayout",
    "StripeError",
    "StripeGateway",
    "StripeKeyReused",
    "StripeMisconfigured",
    "StripeRateLimited",
    "StripeRefused",
    "StripeReplayedError",
    "StripeServerError",
    "StripeUnknownOutcome",
    "StripeWebhookRefused",
    "Transfer",
    "WebhookEvent",
    "verify_webhook",
]

MAX_KEY_LENGTH = 255
PAGE_SIZE = 100
MESSAGE_LENGTH = 500
_SECRET = re.compile(r"\b([sr]k_(?:live|test)_)[\w*]+")
T = TypeVar("T")


class StripeGateway:
    """Calls Stripe, or at `api_base` something that speaks its protocol.

    A call takes at most twice `timeout_seconds` and is sent once: retrying is for the caller,
    who has recorded the attempt and its key, and who also knows when the key's 24 h are over.
    Every method raises what `stripe_errors` describes. Safe in threads and after a fork.
    """

    def __init__(
        self,
        api_key: str,
        api_base: str | None = None,
        timeout_seconds: float = 10.0,
        calls_per_second: float = 20.0,
    ) -> None:
        # The HTTP library's complaint about a key that fits no header would print the key.
        if not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise StripeMisconfigured("the Stripe API key is empty or has characters no key has")
        self._api_key = api_key
        self._api_base = api_base and api_base.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self.calls_per_second = calls_per_second
        """The rate that all processes may keep together; keeping it is for the callers."""
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"StripeGateway(api_base={self._api_base!r})"

    @property
    def live(self) -> bool:
        """Whether its key moves real money."""
        return "_live_" in self._api_key

    def create_transfer(
        self,
        *,
        amount_minor: int,
        currency: str,
        destination: str,
        transfer_group: str,
        idempotency_key: str,
        metadata: Mapping[str, str],
    ) -> Transfer:
        """Moves `amount_minor` minor units from the platform to the account `destination`.

        Raises ValueError, before anything is sent, for a key Stripe would not take: without one
        its library makes one up, and the call could not be repeated.
        """
        _check_key(idempotency_key)
        return self._call(
            lambda: read_transfer(
                self._client().v1.transfers.create(
                    {
                        "amount": amount_minor,
                        "currency": currency,
                        "destination": destination,
                        "transfer_group": transfer_group,
                        "metadata": dict(metadata),
                    },
                    {"idempotency_key": idempotency_key},
                )
            )
        )

    def list_transfers(
        self, *, transfer_group: str | None = None, created_gte: datetime | None = None
    ) -> Iterator[Transfer]:
        """Transfers, newest first, of a group and from a moment (UTC, to the second) on."""
        filters: stripe.params.TransferListParams = {"limit": PAGE_SIZE}
        if transfer_group is not None:
            filters["transfer_group"] = transfer_group
        if created_gte is not None:
            filters["created"] = {"gte": int(created_gte.timestamp())}
        return self._pages(lambda: self._client().v1.transfers.list(filters), read_transfer)

    def retrieve_transfer(self, transfer_id: str) -> Transfer:
        """Raises StripeRefused (`resource_missing`) for one this platform did not make."""
        return self._call(lambda: read_transfer(self._client().v1.transfers.retrieve(transfer_id)))

    def create_payout(
        self,
        *,
        account: str,
        amount_minor: int,
        currency: str,
        method: str = "standard",
        idempotency_key: str,
        metadata: Mapping[str, str],
    ) -> BankPayout:
        """Sends `amount_minor` minor units of `account`'s balance to its bank.

        `method` is standard, or instant for a fee where its bank takes those. Raises ValueError as
        create_transfer does, and for an empty `account`: that would send the platform's own money.
        """
        _check_key(idempotency_key)
        _check_account(account)
        return self._call(
            lambda: read_bank_payout(
                account,
                self._client().v1.payouts.create(
                    {
                        "amount": amount_minor,
                        "currency": currency,
                        "method": method,
                        "metadata": dict(metadata),
                    },
                    {"stripe_account": account, "idempotency_key": idempotency_key},
                ),
            )
        )

    def retrieve_payout(self, account: str, payout_id: str) -> BankPayout:
        """Raises StripeRefused (`resource_missing`) for one that is not `account`'s."""
        _check_account(account)
        options: stripe.RequestOptions = {"stripe_account": account}
        return self._call(
            lambda: read_bank_payout(
                account, self._client().v1.payouts.retrieve(payout_id, {}, options)
            )
        )

    def list_payouts(
        self, account: str, created_gte: datetime | None = None
    ) -> Iterator[BankPayout]:
        """The bank payouts of `account`, newest first, from a moment (UTC, to the second) on.

        Stripe lists them by nothing else that would name one attempt: compare the metadata.
        """
        _check_account(account)
        filters: stripe.params.PayoutListParams = {"limit": PAGE_SIZE}
        if created_gte is not None:
            filters["created"] = {"gte": int(created_gte.timestamp())}
        options: stripe.RequestOptions = {"stripe_account": account}
        return self._pages(
            lambda: self._client().v1.payouts.list(filters, options),
            partial(read_bank_payout, account),
        )

    def retrieve_account(self, account_id: str) -> Account:
        """Raises StripeRefused (`account_invalid`) for an account this platform does not have."""
        return self._call(lambda: read_account(self._client().v1.accounts.retrieve(account_id)))

    def list_accounts(self) -> Iterator[Account]:
        """Connected accounts, newest first."""
        first: stripe.params.AccountListParams = {"limit": PAGE_SIZE}
        return self._pages(lambda: self._client().v1.accounts.list(first), read_account)

    def platform_balance(self) -> Balance:
        """What the platform has at Stripe."""
        return self._call(lambda: read_balance(self._client().v1.balance.retrieve()))

    def _pages(self, first: Callable[[], Any], convert: Callable[[Any], T]) -> Iterator[T]:
        fetch = first
        while True:
            page = self._call(fetch)
            items, more = self._call(partial(_read_page, page, convert))
            yield from items
            if not more:
                return
            fetch = page.next_page

    def _call(self, work: Callable[[], T]) -> T:
        """The result of `work`; the library's errors, which hold headers and bodies, end here."""
        try:
            return work()
        except stripe.StripeError as failure:
            raise self._classified(failure) from None
        except (AttributeError, KeyError, TypeError, ValueError) as unreadable:
            # A success that does not read as one: the effect may well have taken place.
            kind = type(unreadable).__name__
            raise StripeUnknownOutcome(f"Stripe's answer was not understood ({kind})") from None

    def _client(self) -> stripe.StripeClient:
        """This thread's client in this process: a socket shared over a fork mixes up answers."""
        effects.allow("calling Stripe")
        if getattr(self._local, "pid", None) != os.getpid():
            stripe.enable_telemetry = False
            seconds = self._timeout_seconds
            http = stripe.RequestsClient(timeout=seconds, session=BoundedSession(seconds))
            self._local.client = stripe.StripeClient(
                self._api_key,
                base_addresses={"api": self._api_base} if self._api_base else None,
                max_network_retries=0,
                http_client=http,
            )
            self._local.pid = os.getpid()
        client: stripe.StripeClient = self._local.client
        return client

    def _classified(self, failure: stripe.StripeError) -> StripeError:
        status = failure.http_status
        code = _code(failure)
        text = _SECRET.sub(r"\1…", str(failure).replace(self._api_key, "…"))[:MESSAGE_LENGTH]
        if isinstance(failure, stripe.IdempotencyError):
            return StripeKeyReused(text)
        if status == 429 or isinstance(failure, stripe.RateLimitError):
            return StripeRateLimited(_seconds((failure.headers or {}).get("Retry-After")))
        # Stripe answers 403 with this code for an account the platform does not have (any more):
        # a fact about one account, where other 403s are about the key.
        if status == 403 and code == "account_invalid":
            return StripeRefused(code, text)
        if status in (401, 403):
            return StripeMisconfigured(text)
        if isinstance(failure, stripe.InvalidRequestError | stripe.CardError):
            return StripeRefused(code or "invalid_request", text)
        if status is not None and status >= 500:
            replayed = (failure.headers or {}).get("Idempotent-Replayed") == "true"
            return StripeReplayedError(text) if replayed else StripeServerError(text)
        return StripeUnknownOutcome(text)


def _check_key(key: str) -> None:
    if not re.fullmatch(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}", key):
        raise ValueError(f"an idempotency key has 1 to {MAX_KEY_LENGTH} printable characters")


def _check_account(account: str) -> None:
    if not account:
        raise ValueError("no account: that would be the platform itself")


def _code(failure: stripe.StripeError) -> str | None:
    """The error's code; for 401, 403, 409 and 429 the library leaves it in the body alone."""
    body = failure.json_body
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) else None


def _seconds(header: str | None) -> float | None:
    return float(header) if header and re.fullmatch(r"\d+(\.\d+)?", header) else None


def _read_page(page: Any, convert: Callable[[Any], T]) -> tuple[list[T], bool]:
    return [convert(item) for item in page.data], page.has_more

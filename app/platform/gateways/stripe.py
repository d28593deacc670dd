"""Calls Stripe Connect. Stripe's library is called nowhere else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from app.platform.gateways import stripe_answers as errors
from app.platform.gateways.stripe_answers import Account, Balance, BankPayout, Transfer
from app.switchyard import effects

if TYPE_CHECKING:  # loaded by the first call: most processes make none
    import stripe

AT_ONCE = 8
"""The number of simultaneous calls for a page."""
PAGE_SIZE = 100
MESSAGE_LENGTH = 500
_SECRET = re.compile(r"\b([sr]k_(?:live|test)_)[\w*]+")
T = TypeVar("T")
R = TypeVar("R")


class StripeGateway:
    """Calls Stripe, or a server at `api_base` with the same API.

    Each wait in a call takes at most `timeout_seconds`. A call is sent once: retries are left to
    the caller, who has recorded the attempt and its key. Every method raises the errors of
    `stripe_answers`. Safe in threads and after a fork.
    """

    def __init__(
        self,
        api_key: str,
        api_base: str | None = None,
        timeout_seconds: float = 10.0,
        calls_per_second: float = 20.0,
    ) -> None:
        # The HTTP library would print a key that does not fit into a header.
        if not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise errors.StripeMisconfigured("the API key is empty or has invalid characters")
        self._api_key = api_key
        self._api_base = api_base and api_base.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._calls_per_second = calls_per_second
        self._made: tuple[int, stripe.StripeClient] | None = None

    @property
    def live(self) -> bool:
        """Whether the key moves real money."""
        return "_live_" in self._api_key

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results of `work`, which makes a call, for each item. At most AT_ONCE calls run at a
        time, and `calls_per_second` begin in a second. Raises what `work` raises."""
        begun = time.monotonic()

        def one(place: int, item: T) -> R:
            due = begun + place / self._calls_per_second
            time.sleep(max(0.0, due - time.monotonic()))
            return work(item)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(len(items)), items))

    def create_transfer(self, params: stripe.params.TransferCreateParams, key: str) -> Transfer:
        """Move money from the platform's balance to a connected account's."""
        options: stripe.RequestOptions = {"idempotency_key": key}
        return self._call(lambda v1: Transfer.read(v1.transfers.create(params, options)))

    def list_transfers(
        self, *, transfer_group: str | None = None, created_gte: datetime | None = None
    ) -> Iterator[Transfer]:
        """Transfers, newest first, of a group or since a time (UTC, in whole seconds)."""
        filters: stripe.params.TransferListParams = {"limit": PAGE_SIZE}
        if transfer_group is not None:
            filters["transfer_group"] = transfer_group
        if created_gte is not None:
            filters["created"] = {"gte": int(created_gte.timestamp())}
        return self._pages(lambda v1: v1.transfers.list(filters), Transfer.read)

    def retrieve_transfer(self, transfer_id: str) -> Transfer:
        """A transfer. Raises StripeRefused (`resource_missing`) if it is not this platform's."""
        return self._call(lambda v1: Transfer.read(v1.transfers.retrieve(transfer_id)))

    def create_payout(
        self, account: str, params: stripe.params.PayoutCreateParams, key: str
    ) -> BankPayout:
        """Send money from `account`'s balance to its bank."""
        options = _on(account) | {"idempotency_key": key}
        return self._call(lambda v1: BankPayout.read(v1.payouts.create(params, options)))

    def retrieve_payout(self, account: str, payout_id: str) -> BankPayout:
        """A bank payout. Raises StripeRefused (`resource_missing`) if it is not `account`'s."""
        options = _on(account)
        return self._call(lambda v1: BankPayout.read(v1.payouts.retrieve(payout_id, {}, options)))

    def list_payouts(
        self, account: str, created_gte: datetime | None = None
    ) -> Iterator[BankPayout]:
        """The bank payouts of `account`, newest first, since a time (UTC, in whole seconds)."""
        options = _on(account)
        filters: stripe.params.PayoutListParams = {"limit": PAGE_SIZE}
        if created_gte is not None:
            filters["created"] = {"gte": int(created_gte.timestamp())}
        return self._pages(lambda v1: v1.payouts.list(filters, options), BankPayout.read)

    def retrieve_account(self, account_id: str) -> Account:
        """An account. Raises StripeRefused (`account_invalid`) if the platform does not have it."""
        return self._call(lambda v1: Account.read(v1.accounts.retrieve(account_id)))

    def list_accounts(self) -> Iterator[Account]:
        """Connected accounts, newest first."""
        return self._pages(lambda v1: v1.accounts.list({"limit": PAGE_SIZE}), Account.read)

    def platform_balance(self) -> Balance:
        """The platform's balance at Stripe."""
        return self._call(lambda v1: Balance.read(v1.balance.retrieve()))

    def _pages(
        self, first: Callable[[stripe.V1Services], Any], convert: Callable[[Any], T]
    ) -> Iterator[T]:
        with self._translated():
            for item in first(self._client().v1).auto_paging_iter():
                yield convert(item)

    def _call(self, work: Callable[[stripe.V1Services], T]) -> T:
        with self._translated():
            return work(self._client().v1)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the library's errors, which contain headers and bodies."""
        import stripe

        try:
            yield
        except stripe.StripeError as failure:
            raise self._classified(failure) from None
        except (AttributeError, KeyError, TypeError, ValueError) as unreadable:
            # An unreadable success: the call may well have taken effect.
            why = f"Stripe's answer was not understood ({type(unreadable).__name__})"
            raise errors.StripeUnknownOutcome(why) from None

    def _client(self) -> stripe.StripeClient:
        """This process's own client, since a socket shared after a fork mixes up answers."""
        import stripe

        effects.allow("calling Stripe")
        if self._made is None or self._made[0] != os.getpid():
            stripe.enable_telemetry = False
            client = stripe.StripeClient(
                self._api_key,
                base_addresses={"api": self._api_base} if self._api_base else None,
                max_network_retries=0,
                # It has a session for each thread.
                http_client=stripe.RequestsClient(timeout=self._timeout_seconds),
            )
            self._made = (os.getpid(), client)
        return self._made[1]

    def _classified(self, failure: stripe.StripeError) -> errors.StripeError:
        import stripe

        status, headers = failure.http_status, failure.headers or {}
        # For 401, 403, 409 and 429 the library itself has no code.
        code = getattr(failure.error, "code", None)
        code = code if isinstance(code, str) else None
        text = _SECRET.sub(r"\1…", str(failure).replace(self._api_key, "…"))[:MESSAGE_LENGTH]
        if isinstance(failure, stripe.IdempotencyError):
            return errors.StripeKeyReused(text)
        if status == 429 or isinstance(failure, stripe.RateLimitError):
            wait = headers.get("Retry-After", "")
            return errors.StripeRateLimited(float(wait) if wait.isdecimal() else None)
        # Stripe answers 403 with this code for an account that the platform does not have, or no
        # longer has. Other 403s are about the key.
        if status == 403 and code == "account_invalid":
            return errors.StripeRefused(code, text)
        if status in (401, 403):
            return errors.StripeMisconfigured(text)
        if isinstance(failure, stripe.InvalidRequestError | stripe.CardError):
            return errors.StripeRefused(code or "invalid_request", text)
        replayed = status is not None and status >= 500 and headers.get("Idempotent-Replayed")
        kind = errors.StripeReplayedError if replayed == "true" else errors.StripeUnknownOutcome
        return kind(text)


def _on(account: str) -> stripe.RequestOptions:
    if not account:
        raise ValueError("no account is given: the call would be for the platform itself")
    return {"stripe_account": account}

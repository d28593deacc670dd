"""A server that is called as Stripe's API is, by Stripe's own client."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import requests
import stripe

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import Transfer
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    pass

KEY = "sk_test_standin0123456789"


class Stand:
    """Its address, and Stripe's own client of it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def client(self) -> stripe.StripeClient:
        return stripe.StripeClient(
            KEY,
            base_addresses={"api": self.url},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=PATIENCE_SECONDS),
        )

    def pay(self, to: str, key: str, amount: Any = 500, **params: Any) -> stripe.Transfer:
        given: Any = {"amount": amount, "currency": "usd", "destination": to, **params}
        return self.client.v1.transfers.create(given, {"idempotency_key": key})

    def bank(self, account: str, key: str, amount: Any = 100, **params: Any) -> stripe.Payout:
        given: Any = {"amount": amount, "currency": "usd", **params}
        options: stripe.RequestOptions = {"stripe_account": account, "idempotency_key": key}
        return self.client.v1.payouts.create(given, options)

    def raw(self, key: str, account: str = "", **params: Any) -> requests.Response:
        """A transfer, or with `account` its bank payout, as the plain HTTP answer."""
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key}
        if account:
            headers["Stripe-Account"] = account
        path = "payouts" if account else "transfers"
        return requests.post(
            f"{self.url}/v1/{path}", params, headers=headers, timeout=PATIENCE_SECONDS
        )


def pay(gateway: StripeGateway, key: str = "k", **change: Any) -> Transfer:
    """A transfer through the gateway."""
    given: dict[str, Any] = {
        "amount": 500,
        "currency": "usd",
        "destination": "acct_1",
        "transfer_group": "run-1",
        "metadata": {"payout": "9"},
        **change,
    }
    return gateway.create_transfer(cast(stripe.params.TransferCreateParams, given), key)


def error_of(failure: stripe.StripeError) -> dict[str, Any]:
    """The error object that Stripe's answer held."""
    body: Any = failure.json_body
    return dict(body["error"])

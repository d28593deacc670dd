"""What each answer is, Stripe's or not, late or none at all: only a refusal is taken for one."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import stripe

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import (
    Account,
    BankPayout,
    StripeError,
    StripeMisconfigured,
    StripeRateLimited,
    StripeRefused,
    StripeUnknownOutcome,
    Transfer,
)
from tests.support.stripe_stand import KEY, pay
from tests.support.wire import answering


def raw(status: str, body: str, length: int | None = None) -> bytes:
    """The answer's bytes. A greater `length` makes it an answer that is cut short."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return (head + body).encode()


def said(code: str) -> str:
    return json.dumps({"error": {"message": "x", "code": code}})


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (raw("502 Bad Gateway", "<html>"), StripeUnknownOutcome),
        (raw("503 Unavailable", said("api_error")), StripeUnknownOutcome),
        (raw("400 Bad Request", "<html>a proxy's</html>"), StripeUnknownOutcome),
        (raw("200 OK", "<html>a proxy's</html>"), StripeUnknownOutcome),
        (raw("200 OK", "{}"), StripeUnknownOutcome),
        (raw("200 OK", "{}", 1_000_000), StripeUnknownOutcome),
        (raw("200 OK", "[]"), StripeUnknownOutcome),
        (raw("200 OK", '{"id": "tr_1", "object": "transfer"}'), StripeUnknownOutcome),
        (raw("307 Moved\r\nLocation: http://127.0.0.1:1/", ""), StripeUnknownOutcome),
        (raw("409 Conflict", said("lock_timeout")), StripeUnknownOutcome),
        (raw("409 Conflict", said("idempotency_key_in_use")), StripeUnknownOutcome),
        (None, StripeUnknownOutcome),
        (b"", StripeUnknownOutcome),
        (raw("429 Too Many", "<html>"), StripeRateLimited),
        (raw("429 Too Many", said("lock_timeout")), StripeRateLimited),
        (raw("400 Bad Request", said("rate_limit")), StripeRateLimited),
        (raw("401 Unauthorized", "<html>"), StripeMisconfigured),
        (raw("403 Forbidden", said("")), StripeMisconfigured),
        (raw("400 Bad Request", said("account_invalid")), StripeRefused),
        (raw("402 Payment Required", said("insufficient_funds")), StripeRefused),
    ],
)
def test_each_answer_has_its_outcome(answer: bytes | None, raised: type[StripeError]) -> None:
    seconds = 0.5 if answer is None else 30.0
    with answering(answer) as (url, came), pytest.raises(raised) as failure:
        pay(StripeGateway(KEY, url, timeout_seconds=seconds))
    assert type(failure.value) is raised
    # One call of ours is one request: the library's own retries are off.
    assert len(came) == 1
    if isinstance(failure.value, StripeRefused):
        assert failure.value.code in ("account_invalid", "insufficient_funds")


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_path_is_the_api_s_whatever_the_base_ends_in(slash: str) -> None:
    with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as (url, heads):
        with pytest.raises(StripeUnknownOutcome):
            pay(StripeGateway(KEY, url + slash))
        assert heads == [b"POST /v1/transfers HTTP/1.1"]


def test_what_may_be_null_at_stripe_may_be_null_here() -> None:
    """By the types in Stripe's own library. One such object must not end a whole list."""
    whole: dict[str, Any] = {"id": "x_1", "amount": 1, "amount_reversed": 0, "created": 1}
    whole |= {"currency": "usd", "destination": "acct_1", "transfer_group": "g", "status": "paid"}
    for ours, theirs in ((Transfer, stripe.Transfer), (BankPayout, stripe.Payout)):
        types = theirs.__annotations__
        null = {name: None for name in ours.model_fields if type(None) in get_args(types[name])}
        assert null
        assert ours.read(theirs.construct_from(whole | null, KEY)).id == "x_1"
    account = {"id": "acct_1", "object": "account"}
    assert not Account.read(stripe.Account.construct_from(account, KEY)).gates.payouts_enabled
    no_schedule: tuple[dict[str, Any], ...] = (
        {},
        {"settings": None},
        {"settings": {}},
        {"settings": {"payouts": None}},
    )
    for settings in no_schedule:
        shown = stripe.Account.construct_from(account | settings, KEY)
        assert Account.read(shown).gates.manual_payouts

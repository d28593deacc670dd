"""Answers that are not Stripe's, late ones and none at all: never taken for a refusal."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import stripe
from werkzeug.wrappers import Response

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import (
    Account,
    BankPayout,
    StripeError,
    StripeMisconfigured,
    StripeRateLimited,
    StripeUnknownOutcome,
    Transfer,
)
from tests.support.serving import serve_in_thread
from tests.support.stripe_stand import KEY, pay
from tests.support.wire import answering


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        ("502 Bad Gateway", "<html>", StripeUnknownOutcome),
        (
            "503 Unavailable",
            '{"error": {"message": "x", "type": "api_error"}}',
            StripeUnknownOutcome,
        ),
        ("400 Bad Request", "<html>a proxy's</html>", StripeUnknownOutcome),
        ("200 OK", "<html>a proxy's</html>", StripeUnknownOutcome),
        ("200 OK", "{}", StripeUnknownOutcome),
        ("200 OK", "[]", StripeUnknownOutcome),
        ("200 OK", '{"id": "tr_1", "object": "transfer"}', StripeUnknownOutcome),
        ("307 Temporary Redirect", "", StripeUnknownOutcome),
        ("429 Too Many", "<html>", StripeRateLimited),
        ("401 Unauthorized", "<html>", StripeMisconfigured),
        ("403 Forbidden", '{"error": {"message": "x"}}', StripeMisconfigured),
        ("400 Bad Request", '{"error": {"message": "x", "code": "rate_limit"}}', StripeRateLimited),
    ],
)
def test_answers_that_are_not_stripes_are_classified_safely(
    status: str, body: str, raised: type[StripeError]
) -> None:
    app = Response(body, status, {"Location": "/elsewhere"}, content_type="text/html")
    with serve_in_thread(app) as url, pytest.raises(raised) as failure:
        pay(StripeGateway(KEY, url))
    assert type(failure.value) is raised


def test_an_answer_that_is_cut_short_is_an_unknown_outcome() -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}"
    with answering(begun) as (url, _), pytest.raises(StripeUnknownOutcome):
        pay(StripeGateway(KEY, url))


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
    shown = stripe.Account.construct_from({"id": "acct_1", "object": "account"}, KEY)
    assert not Account.read(shown).gates.payouts_enabled

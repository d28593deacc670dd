"""The Stripe gateway, over Stripe's real client: what it reads, shares, and keeps to itself."""

import json
import logging
import traceback
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import stripe
from werkzeug.wrappers import Response

from app.platform.gateways import stripe as gateway_module
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import (
    Account,
    Balance,
    Gates,
    StripeError,
    StripeKeyReused,
    StripeMisconfigured,
    StripeRateLimited,
    StripeRefused,
    StripeUnknownOutcome,
)
from tests.support.forks import in_a_fork
from tests.support.serving import serve_in_thread
from tests.support.standins import StripeStandIn
from tests.support.stripe_stand import KEY, pay

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

START = datetime(2025, 1, 1, 9, tzinfo=UTC)


class Counted(StripeStandIn):
    """A stand-in, and the ports its clients called from."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: START)
        self.ports: list[str] = []

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        self.ports.append(environ["REMOTE_PORT"])
        return super().__call__(environ, start)


@pytest.fixture
def stand() -> Iterator[Counted]:
    with Counted() as stand:
        stand.top_up(10_000)
        stand.set_accounts({"id": "acct_1"})
        yield stand


@pytest.fixture
def gateway(stand: Counted) -> StripeGateway:
    return StripeGateway(KEY, stand.url)


def test_the_balance_has_what_can_be_sent_and_what_is_still_to_come(
    gateway: StripeGateway, stand: Counted
) -> None:
    stand.top_up(300, pending_seconds=60)
    stand.top_up(70, "eur", pending_seconds=60)
    found = gateway.platform_balance()
    assert found == Balance({"eur": 0, "usd": 10_000}, {"eur": 70, "usd": 300})
    assert found.total == {"eur": 70, "usd": 10_300}
    stand.ahead += timedelta(seconds=60)
    assert gateway.platform_balance().available == found.total
    assert Balance({"usd": -5}, {"eur": 3}).total == {"usd": -5, "eur": 3}


def test_lists_read_every_page(
    gateway: StripeGateway, stand: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.set_accounts(*[{}] * 249)
    assert len({account.id for account in gateway.list_accounts()}) == 250
    made = [pay(gateway, f"k{n}", amount=1).id for n in range(105)]
    assert [t.id for t in gateway.list_transfers()] == made[::-1]
    stand.ahead += timedelta(seconds=60)
    late = pay(gateway, "late", transfer_group="run-2")
    assert list(gateway.list_transfers(transfer_group="run-2")) == [late]
    assert list(gateway.list_transfers(created_gte=late.created)) == [late]
    assert list(gateway.list_transfers(transfer_group="run-3")) == []
    with pytest.raises(ValueError, match="no account"):
        next(gateway.list_payouts(""))
    monkeypatch.setattr(gateway_module, "PAGE_SIZE", 2)
    given: stripe.params.PayoutCreateParams = {"amount": 1, "currency": "usd"}
    banks = [gateway.create_payout("acct_1", given, f"b{n}") for n in range(5)]
    assert list(gateway.list_payouts("acct_1")) == banks[::-1]
    later = late.created + timedelta(seconds=1)
    assert list(gateway.list_payouts("acct_1", later)) == []


def test_a_key_with_other_parameters_is_never_a_refusal(gateway: StripeGateway) -> None:
    pay(gateway)
    with pytest.raises(StripeKeyReused):
        pay(gateway, amount=501)
    assert issubclass(StripeKeyReused, StripeUnknownOutcome)


def test_a_rate_limit_says_how_long_to_wait(gateway: StripeGateway, stand: Counted) -> None:
    stand.fault("429", retry_after=7)
    with pytest.raises(StripeRateLimited) as limited:
        pay(gateway)
    assert limited.value.retry_after == 7.0
    stand.fault("429", method="GET")
    with pytest.raises(StripeRateLimited) as limited:
        list(gateway.list_transfers())
    assert limited.value.retry_after is None


def test_an_account_that_is_gone_is_not_a_wrong_key(gateway: StripeGateway, stand: Counted) -> None:
    with pytest.raises(StripeRefused) as refused:
        gateway.retrieve_account("acct_gone")
    assert refused.value.code == "account_invalid"
    with pytest.raises(StripeMisconfigured):
        StripeGateway("sk_live_another0123456789", stand.url).retrieve_account("acct_1")


def test_calls_share_a_connection_and_a_fork_gets_its_own(
    gateway: StripeGateway, stand: Counted
) -> None:
    pay(gateway, "k1")
    pay(gateway, "k2")
    assert len(set(stand.ports)) == 1
    assert in_a_fork(lambda: pay(gateway, "k3").amount) == "500"
    pay(gateway, "k4")
    first, second, forked, last = stand.ports
    assert first == second == last != forked


def test_the_key_is_nowhere_in_messages_or_logs(
    stand: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = StripeGateway(KEY, stand.url)
    wrong = "rk_live_another0123456789"
    seen = [repr(gateway), str(gateway)]
    for kind in ("drop_before", "500_before", "409", "429", "refuse"):
        stand.fault(kind)
        with pytest.raises(StripeError) as failure:
            pay(gateway, kind)
        seen += traceback.format_exception(failure.value)
    with pytest.raises(StripeMisconfigured) as refused:
        pay(StripeGateway(wrong, stand.url))
    seen += traceback.format_exception(refused.value)
    with pytest.raises(StripeRefused) as refused_account:
        gateway.retrieve_account("acct_gone")
    seen += traceback.format_exception(refused_account.value)
    with pytest.raises(StripeMisconfigured) as malformed:
        StripeGateway(f"{KEY}\n", stand.url)
    seen += traceback.format_exception(malformed.value)
    text = "\n".join([*seen, caplog.text])
    for key in (KEY, wrong):
        assert key not in text
        assert key.removeprefix("sk_test_") not in text
    said = json.dumps({"error": {"message": f"not {KEY}"}})
    echo = Response(said, 400, content_type="application/json")
    with serve_in_thread(echo) as url, pytest.raises(StripeRefused) as echoed:
        pay(StripeGateway(KEY, url))
    assert KEY not in str(echoed.value)


def test_accounts_say_whether_they_can_be_paid(gateway: StripeGateway, stand: Counted) -> None:
    stand.set_accounts(
        {"id": "acct_pending", "transfers": "pending"},
        {"id": "acct_none", "transfers": None},
        {"id": "acct_shut", "disabled_reason": "rejected.fraud"},
        {"id": "acct_nobank", "payouts_enabled": False, "country": "DE"},
        {"id": "acct_daily", "payout_interval": "daily"},
    )
    assert gateway.retrieve_account("acct_1") == Account("acct_1", Gates(True, True, None, True))
    gates = dict(gateway.list_accounts())
    assert {id_ for id_, one in gates.items() if not one.manual_payouts} == {"acct_daily"}
    inactive = {id_ for id_, one in gates.items() if not one.transfers_active}
    assert inactive == {"acct_pending", "acct_none"}
    assert gates["acct_shut"].disabled_reason == "rejected.fraud"
    assert not gates["acct_nobank"].payouts_enabled

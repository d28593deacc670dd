"""Stripe's webhooks from the stand-in's sender to the inbox, and bank payouts on their way."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from flask import Flask
from pydantic import SecretStr
from sqlalchemy import select

from app.local.stripe.webhooks import signature
from app.platform.earnings.models import Creator
from app.platform.gateways import Gateways
from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import Account, StripeWebhookRefused
from app.platform.gateways.stripe_webhooks import read_event
from app.platform.payouts.inbox import ACTS_ON
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from tests.support.platform import HOOK, SECRET, START, Platform
from tests.support.site import mount
from tests.support.stripe_stand import pay

EVENT = {
    "id": "evt_1",
    "object": "event",
    "account": "acct_ana",
    "created": int(START.timestamp()),
    "data": {"object": {"id": "acct_ana", "object": "account", "payouts_enabled": False}},
    "type": "account.updated",
}


def post(platform: Platform, body: bytes, header: str | None = None) -> Any:
    """POST the body, rightly signed unless `header` says otherwise."""
    if header is None:
        header = signature(body.decode(), SECRET, int(platform.now.timestamp()))
    client = platform.app.test_client()
    return client.post(HOOK, data=body, headers={"Stripe-Signature": header})


def sent(platform: Platform, **change: Any) -> Any:
    return post(platform, json.dumps({**EVENT, **change}).encode())


def mounted(platform: Platform, runtime: Runtime) -> None:
    """Mount the endpoints on another runtime."""
    platform.app = Flask("another")
    mount(platform.app, runtime)


def with_secret(platform: Platform, secret: SecretStr | None) -> None:
    settings = platform.runtime.settings.model_copy(update={"stripe_webhook_secret": secret})
    mounted(platform, replace(platform.runtime, settings=settings))


def set_account(platform: Platform, **state: Any) -> None:
    """The creator's account at Stripe."""
    platform.stand.set_accounts({"id": "acct_ana", **state})


def transfer(platform: Platform) -> str:
    return pay(platform.runtime.engine.gateways.stripe, destination="acct_ana").id


def runs(platform: Platform) -> list[Any]:
    return platform.db.rows(select(RunRow.__table__))


def result_of(platform: Platform) -> dict[str, Any]:
    (run,) = runs(platform)
    assert run.status == "succeeded", run.error
    return dict(json.loads(run.result))


def gates(platform: Platform) -> tuple[bool, bool, str | None]:
    C = Creator
    (row,) = platform.db.rows(select(C.payouts_enabled, C.transfers_active, C.disabled_reason))
    return tuple(row)


@pytest.fixture(autouse=True)
def _ana(request: pytest.FixtureRequest) -> None:
    if "platform" in request.fixturenames:
        request.getfixturevalue("platform").creator()


# The gateway


def test_what_is_not_acted_on_is_not_looked_at(platform: Platform) -> None:
    """Coupons and plans have ids of the platform's own choosing; other kinds have none."""
    ids: list[Any] = ["SUMMER-25", "gold monthly", "upcoming_in_1-2", "é" * 300, 7, None, {"x": 1}]
    others: list[Any] = [{}, None, [], "text"]
    for about in [*({"id": one} for one in ids), *others]:
        of = {"object": about}
        answer = sent(platform, type="coupon.created", account=None, created=1e30, data=of)
        assert (answer.status_code, answer.json) == (200, {"received": True}), about
    thin = {"id": "evt_test_65R", "object": "v2.core.event", "context": "acct_ana/acct_bob"}
    kind = "v2.core.account[configuration.recipient].updated"
    for strange in ({"data": None}, {"data": "none"}, {"account": "né"}, {"account": {"id": 1}}):
        assert sent(platform, **{**thin, "type": kind, **strange}).status_code == 200, strange
    body = json.dumps({**thin, "type": kind, "created": "2025-01-15T09:00:00.000Z"}).encode()
    assert post(platform, body).status_code == 200
    assert runs(platform) == []


@pytest.mark.parametrize("kind", sorted(ACTS_ON))
def test_a_thin_event_is_the_same_as_a_whole_one(platform: Platform, kind: str) -> None:
    """It names its object and its account, where the other contains them."""
    whole = {**EVENT, "livemode": False, "type": kind, "data": {"object": {"id": "po_1"}}}
    thin = {"id": "evt_1", "object": "v2.core.event", "livemode": False, "type": f"v1.{kind}"}
    about = {"id": "po_1", "type": "payout", "url": "/v1/payouts/po_1"}
    for context in ("acct_ana", "acct_platform/acct_ana"):
        for event in (thin | {"context": context, "related_object": about}, whole):
            assert post(platform, json.dumps(event).encode()).status_code == 200
            (run,) = runs(platform)
            assert json.loads(run.payload)["objectId"] == "po_1"


# The endpoint


def signed(body: bytes, secret: str = SECRET, age: int = 0) -> str:
    return signature(body.decode(), secret, int(START.timestamp()) - age)


GOOD = json.dumps(EVENT).encode()


REFUSED = [
    (GOOD, "", 400),
    (GOOD, "nonsense", 400),
    (GOOD, "t=1,v1=", 400),
    (GOOD, f"t=1,{signed(GOOD)}", 400),
    (GOOD, f"{signed(GOOD, age=400)},t={int(START.timestamp())}", 400),
    (GOOD, signed(GOOD).replace(",", ", "), 400),
    (GOOD, f" {signed(GOOD)}", 400),
    (GOOD, signed(GOOD).replace("v1=", "v0="), 400),
    (GOOD, signed(GOOD)[:-1] + "é", 400),
    (GOOD, signed(GOOD, "whsec_another"), 400),
    (GOOD, signed(GOOD, age=310), 400),
    (GOOD, signed(GOOD, age=-310), 400),
    (GOOD.replace(b"acct_ana", b"acct_eve"), signed(GOOD), 400),
    (b"\xff\xfe", signed(GOOD), 400),
    (b"not JSON", signed(b"not JSON"), 400),
    (b"[]", signed(b"[]"), 400),
    (b"{}", signed(b"{}"), 400),
    (b'{"id": "evt_1", "type": 7}', signed(b'{"id": "evt_1", "type": 7}'), 400),
    (b'{"object": "v2.core.event"}', signed(b'{"object": "v2.core.event"}'), 400),
    (b"[" * 50_000, signed(b"[" * 50_000), 400),
    (GOOD.replace(b"evt_1", b"evt 1"), signed(GOOD.replace(b"evt_1", b"evt 1")), 400),
    (b" " * 1_100_000, signed(b" " * 1_100_000), 413),
]


def test_what_is_not_stripes_is_refused_and_leaves_nothing(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for body, header, status in REFUSED:
        caplog.clear()
        answer = post(platform, body, header)
        assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
        assert SECRET not in answer.text + caplog.text
        assert "another" not in answer.text
        if status == 400:
            assert [one.__dict__["why"] for one in caplog.records if one.msg == "webhook refused"]
    assert runs(platform) == []
    with pytest.raises(StripeWebhookRefused):  # a target's signature needs UTF-8
        read_event(GOOD.decode().encode("utf-16"))


def test_either_endpoint_s_secret_will_do(platform: Platform) -> None:
    """Stripe has an endpoint for the platform and one for its accounts, each with a secret."""
    both = SecretStr(f"whsec_of_the_accounts, {SECRET},")
    with_secret(platform, both)
    for n, secret in enumerate((SECRET, "whsec_of_the_accounts")):
        body = json.dumps({**EVENT, "id": f"evt_{n}"}).encode()
        assert post(platform, body, signed(body, secret)).status_code == 200
    for secret in ("", ",", both.get_secret_value(), "whsec_another"):
        assert post(platform, GOOD, signed(GOOD, secret)).status_code == 400
    assert len(runs(platform)) == 2
    with_secret(platform, SecretStr(" , "))
    assert post(platform, GOOD, signed(GOOD, "")).status_code == 400


def test_without_a_secret_the_webhook_is_off(platform: Platform) -> None:
    with_secret(platform, None)
    answer = post(platform, GOOD)
    assert (answer.status_code, answer.content_type) == (503, "application/problem+json")
    assert runs(platform) == []


def test_a_live_platform_does_not_act_on_test_mode(platform: Platform) -> None:
    """Its Connect endpoint also gets test events, whose objects a live key cannot see."""
    for n, (key, livemode, acted_on) in enumerate(
        (
            ("sk_live_webhooks", False, False),
            ("rk_live_webhooks", False, False),
            ("sk_live_webhooks", True, True),
            ("sk_test_webhooks", False, True),
        )
    ):
        gateways = Gateways(stripe=StripeGateway(key, platform.stand.url))
        engine = replace(platform.engine, gateways=gateways)
        mounted(platform, replace(platform.runtime, engine=engine))
        before = len(runs(platform))
        assert sent(platform, id=f"evt_{n}", livemode=livemode).status_code == 200
        assert len(runs(platform)) - before == acted_on, (key, livemode)


class Overtaken:
    """A gateway whose first answer is outrun by another event's whole handling."""

    def __init__(self, real: StripeGateway, meanwhile: Callable[[], object]) -> None:
        self._real = real
        self._meanwhile: Callable[[], object] | None = meanwhile

    def retrieve_account(self, account_id: str) -> Account:
        found = self._real.retrieve_account(account_id)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return found


def test_an_overtaken_fetch_is_made_again(platform: Platform) -> None:
    def meanwhile() -> None:
        set_account(platform, payouts_enabled=False)
        sent(platform, id="evt_2")
        platform.queue.work(platform.engine)
        assert gates(platform) == (False, True, None)

    real = platform.runtime.engine.gateways.stripe
    slow = cast(StripeGateway, Overtaken(real, meanwhile))
    platform.engine = replace(platform.engine, gateways=Gateways(stripe=slow))
    sent(platform, id="evt_1")
    platform.drain()
    assert gates(platform) == (False, True, None)
    assert [run.status for run in runs(platform)] == ["succeeded"] * 2


def test_a_reversed_transfer_of_nobodys_waits_for_a_person(platform: Platform) -> None:
    id_ = transfer(platform)
    platform.reverse(id_, 200)
    error = "reversed, and not a transfer of the ledger's"
    sent(platform, type="transfer.reversed", account=None, data={"object": {"id": id_}})
    platform.drain()
    assert result_of(platform) == {
        "eventId": "evt_1",
        "type": "transfer.reversed",
        "objectId": id_,
        "amountReversed": 200,
        "error": error,
    }


@pytest.mark.parametrize("kind", sorted(ACTS_ON))
def test_an_event_of_a_thing_stripe_does_not_have_ends_and_is_named(
    platform: Platform, kind: str
) -> None:
    account = "acct_gone" if kind == "account.application.deauthorized" else "acct_ana"
    gone = {"object": {"id": "acct_gone" if kind == "account.updated" else "po_gone"}}
    assert sent(platform, type=kind, account=account, data=gone).status_code == 200
    platform.drain()
    result = result_of(platform)
    assert (result["eventId"], result["type"]) == ("evt_1", kind)
    if kind.startswith("account."):
        # It is nobody's account here: nothing to name, and nobody's gates are touched.
        assert (result["creators"], result["disabled_reason"]) == (0, "not_at_stripe")
    else:
        assert result["error"].startswith("not to be had from Stripe: ")
    assert gates(platform) == (True, True, None)


def test_a_bank_payout_that_is_no_payouts_is_left_alone(platform: Platform) -> None:
    transfer(platform)
    given = {"amount": 100, "currency": "usd"}
    bank = platform.runtime.engine.gateways.stripe.create_payout("acct_ana", given, "b")
    sent(platform, type="payout.failed", data={"object": {"id": bank.id}})
    platform.drain()
    result = result_of(platform)
    said = {"status": "pending", "failureCode": None, "payoutId": None, "error": None}
    assert {name: result[name] for name in said} == said

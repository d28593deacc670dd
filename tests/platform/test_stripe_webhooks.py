"""Stripe's webhooks from the stand-in's sender to the inbox, and bank payouts on their way."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import stripe
from flask import Flask
from pydantic import SecretStr
from sqlalchemy import func, insert, select

from app.local.serving import serve_in_thread
from app.local.stripe.webhooks import signature
from app.platform import wiring
from app.platform.config import Settings
from app.platform.earnings.models import Creator
from app.platform.gateways import Gateways
from app.platform.gateways import stripe as gateway_module
from app.platform.gateways.stripe import (
    Account,
    BankPayout,
    StripeGateway,
    StripeRefused,
    StripeWebhookRefused,
    WebhookEvent,
    verify_webhook,
)
from app.platform.payouts.inbox import ACTS_ON
from app.platform.payouts.models import StripeEvent
from app.platform.wiring import make_runtime
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.relay import sweep
from tests.support.standins import StripeStandIn
from tests.support.tables import create_all
from tests.support.waiting import until

START = datetime(2025, 1, 15, 9, tzinfo=UTC)
DAY = 24 * 3600
SECRET = "whsec_0123456789abcdefghij"
PATH = "/api/webhooks/stripe"
EVENT = {
    "id": "evt_1",
    "object": "event",
    "account": "acct_ana",
    "created": int(START.timestamp()),
    "data": {"object": {"id": "acct_ana", "object": "account", "payouts_enabled": False}},
    "type": "account.updated",
}


class Time:
    """The one clock of the platform and of Stripe."""

    now = START


class Stand:
    """A served stand-in and the gateway to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.gateway = StripeGateway("sk_test_webhooks", url)
        self.sdk = stripe.StripeClient("sk_test_webhooks", base_addresses={"api": url})
        self.admin("topup", amount=100_000)
        self.account()

    def admin(self, route: str, **body: Any) -> Any:
        answer = requests.post(f"{self.url}/_standin/{route}", json=body, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def fault(self, kind: str, **rule: Any) -> None:
        self.admin("faults", rules=[{"kind": kind, "probability": 1, **rule}])

    def account(self, **state: Any) -> None:
        self.admin("accounts", accounts=[{"id": "acct_ana", **state}])

    def transfer(self, key: str = "k", amount: int = 500) -> str:
        return self.gateway.create_transfer(
            amount_minor=amount,
            currency="usd",
            destination="acct_ana",
            transfer_group="g",
            idempotency_key=key,
            metadata={},
        ).id

    def bank(self, key: str = "b", amount: int = 100) -> BankPayout:
        return self.gateway.create_payout(
            account="acct_ana",
            amount_minor=amount,
            currency="usd",
            idempotency_key=key,
            metadata={"payout": "9"},
        )

    def available(self) -> int:
        balance = self.sdk.v1.balance.retrieve({}, {"stripe_account": "acct_ana"})
        return balance.available[0].amount

    def events(self, account: str | None = "acct_ana") -> list[stripe.Event]:
        """Oldest first."""
        options: stripe.RequestOptions = {"stripe_account": account} if account else {}
        return self.sdk.v1.events.list({"limit": 100}, options).data[::-1]


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def stand(clock: Time) -> Iterator[Stand]:
    app = StripeStandIn(clock=lambda: clock.now)
    with serve_in_thread(app) as url:
        yield Stand(url)
        app.close()


class Platform:
    """The webhook's endpoint on a runtime with an in-memory queue."""

    def __init__(self, url: str, stand: Stand, clock: Time) -> None:
        self.queue = MemoryBackend()
        self.queue.name = "rq"
        settings = Settings(
            database_url=url,
            stripe_api_base=stand.url,
            stripe_webhook_secret=SECRET,
        )
        self.clock = clock
        self.made = make_runtime(settings, clock=lambda: clock.now, backends=[self.queue])
        self.engine = self.made.engine
        create_all(self.made.db.engine)
        self.app = Flask("webhooks")
        wiring.mount(self.app, self.made)
        ana = {
            "id": "ana",
            "name": "Ana",
            "email": "ana@example.com",
            "country": "US",
            "currency": "usd",
            "stripe_account_id": "acct_ana",
            "created_at": START,
            "payouts_enabled": True,
            "transfers_active": True,
        }
        with self.made.db.begin() as tx:
            tx.execute(insert(Creator), [ana])

    def post(self, body: bytes, signed: str | None = None) -> Any:
        """POST the body, rightly signed unless `signed` says otherwise."""
        if signed is None:
            signed = signature(body.decode(), SECRET, int(self.clock.now.timestamp()))
        return self.app.test_client().post(PATH, data=body, headers={"Stripe-Signature": signed})

    def event(self, **change: Any) -> Any:
        return self.post(json.dumps({**EVENT, **change}).encode())

    def drain(self) -> None:
        for _ in range(10):
            self.queue.work(self.engine)
            self.clock.now += timedelta(seconds=30)
            sweep(self.made.store)
        self.queue.work(self.engine)

    def rows(self, model: Any, *columns: Any) -> list[Any]:
        with self.made.db.autocommit() as connection:
            return list(
                connection.execute(select(*columns or (model.__table__,)).select_from(model))
            )

    def runs(self) -> list[Any]:
        return self.rows(RunRow)

    def result(self) -> dict[str, Any]:
        (run,) = self.runs()
        assert run.status == "succeeded", run.error
        return dict(json.loads(run.result))

    def gates(self) -> tuple[bool, bool, str | None]:
        C = Creator
        (row,) = self.rows(C, C.payouts_enabled, C.transfers_active, C.disabled_reason)
        return tuple(row)


@pytest.fixture
def platform(database_url: str, stand: Stand, clock: Time) -> Iterator[Platform]:
    made = Platform(database_url, stand, clock)
    yield made
    made.made.db.dispose()


@pytest.fixture
def lite(tmp_path: Path, stand: Stand, clock: Time) -> Iterator[Platform]:
    made = Platform(f"sqlite:///{tmp_path / 'test.db'}", stand, clock)
    yield made
    made.made.db.dispose()


# Bank payouts


def test_a_bank_payout_settles_by_the_clock(stand: Stand) -> None:
    stand.transfer()
    made = stand.bank()
    assert (made.status, made.account, made.amount_minor) == ("pending", "acct_ana", 100)
    assert made.metadata == {"payout": "9"}
    assert made.arrives == made.created + timedelta(days=2)
    assert stand.bank() == made
    seen = []
    for _ in range(3):
        stand.admin("clock", advance_seconds=DAY)
        seen.append(stand.gateway.retrieve_payout("acct_ana", made.id).status)
    assert seen == ["in_transit", "paid", "paid"]
    assert stand.available() == 400
    types = [event.type for event in stand.events()]
    assert types == ["payout.created", "payout.updated", "payout.paid"]


@pytest.mark.parametrize(("kind", "before"), [("bank_fails", "in_transit"), ("bank_turns", "paid")])
def test_a_bank_payout_fails_even_once_paid(stand: Stand, kind: str, before: str) -> None:
    stand.admin("bank", settle_seconds=60)
    stand.transfer()
    stand.fault(kind, code="no_account", destinations=["acct_ana"])
    made = stand.bank()
    stand.admin("clock", advance_seconds=60 if kind == "bank_turns" else 30)
    assert stand.gateway.retrieve_payout("acct_ana", made.id).status == before
    assert stand.available() == 400
    stand.admin("clock", advance_seconds=60)
    failed = stand.gateway.retrieve_payout("acct_ana", made.id)
    assert (failed.status, failed.failure_code) == ("failed", "no_account")
    assert stand.available() == 500
    last = stand.events()[-1]
    assert (last.type, last.account, last.data.object.id) == (
        *("payout.failed", "acct_ana", made.id),
    )


def test_only_a_pending_bank_payout_is_cancelled(stand: Stand) -> None:
    stand.transfer()
    made, kept = stand.bank("b1"), stand.bank("b2")
    cancel = stand.sdk.v1.payouts.cancel
    cancelled = cancel(made.id, {}, {"stripe_account": "acct_ana"})
    assert (cancelled.status, stand.available()) == ("canceled", 400)
    stand.admin("clock", advance_seconds=2 * DAY)
    assert stand.gateway.retrieve_payout("acct_ana", made.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        cancel(kept.id, {}, {"stripe_account": "acct_ana"})


def test_an_accounts_bank_payouts_are_listed_page_by_page(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "PAGE_SIZE", 2)
    stand.transfer()
    made = [stand.bank(f"b{n}") for n in range(5)]
    assert list(stand.gateway.list_payouts("acct_ana")) == made[::-1]
    late = made[0].created + timedelta(seconds=1)
    assert list(stand.gateway.list_payouts("acct_ana", late)) == []
    with pytest.raises(StripeRefused):
        stand.bank("more", 501)
    with pytest.raises(ValueError, match="no account"):
        next(stand.gateway.list_payouts(""))


def test_a_transfer_is_fetched_again(stand: Stand) -> None:
    id_ = stand.transfer()
    stand.sdk.v1.transfers.reversals.create(id_, {"amount": 200})
    assert stand.gateway.retrieve_transfer(id_).amount_reversed_minor == 200
    events = stand.events(account=None)
    assert [event.type for event in events] == ["transfer.created", "transfer.reversed"]
    assert "account" not in events[0]
    with pytest.raises(StripeRefused) as refused:
        stand.gateway.retrieve_transfer("tr_unknown")
    assert refused.value.code == "resource_missing"


# Delivery


def test_from_a_change_at_stripe_to_the_creators_gates(platform: Platform, stand: Stand) -> None:
    with serve_in_thread(platform.app) as url:
        stand.admin("webhook", url=url + PATH, secret=SECRET)
        stand.fault("webhook_double")
        stand.account(transfers="inactive", disabled_reason="rejected.fraud")
        until(lambda: len(platform.rows(StripeEvent)) == 1)
        until(lambda: stand.events()[0].pending_webhooks == 0)
    platform.drain()
    assert platform.gates() == (True, False, "rejected.fraud")
    (event,) = platform.rows(StripeEvent)
    assert (event.type, event.account, event.object_id) == (
        *("account.updated", "acct_ana", "acct_ana"),
    )
    assert event.handled_at is not None
    assert event.error is None
    assert platform.result()["creators"] == 1
    assert stand.events()[0].data.previous_attributes is not None


def test_events_are_sent_again_doubled_and_out_of_order(stand: Stand) -> None:
    seen: list[tuple[str, str]] = []
    all_made = threading.Event()

    def receiver(environ: Any, start: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        event = verify_webhook(body, environ["HTTP_STRIPE_SIGNATURE"], SECRET, START)
        # The first one waits until there are three, so that the other two set out together.
        all_made.wait()
        first = (event.id, event.type) not in seen
        seen.append((event.id, event.type))
        late = first and event.type != "payout.created"
        start("500 Later" if late else "204 Done", [])
        return []

    stand.fault("webhook_late", path="payout.created", seconds=0.6)
    stand.fault("webhook_double", path="payout.*")
    with serve_in_thread(receiver) as url:
        stand.admin("webhook", url=url, secret=SECRET)
        stand.transfer()
        stand.bank()
        stand.account(payouts_enabled=False)
        all_made.set()
        until(lambda: len(seen) >= 6)
        until(lambda: all(not event.pending_webhooks for event in stand.events()))
    kinds = [kind for _, kind in seen]
    assert kinds[0] == "transfer.created"
    # Made before the account's, and sent after it.
    assert kinds.index("account.updated") < kinds.index("payout.created")
    assert Counter(kinds) == dict.fromkeys(kinds, 2)
    assert len(set(seen)) == 3


@pytest.mark.parametrize("url", ["http://192.0.2.1/", "https://127.0.0.1/", "ftp://localhost"])
def test_events_never_leave_this_machine(stand: Stand, url: str) -> None:
    with pytest.raises(requests.HTTPError):
        stand.admin("webhook", url=url, secret=SECRET)


# The gateway


def test_a_verified_event_is_plain_data() -> None:
    body = json.dumps(EVENT).encode()
    signed = stripe.WebhookSignature.generate_signature_header(
        body.decode(), SECRET, int(START.timestamp())
    )
    assert signed == signature(body.decode(), SECRET, int(START.timestamp()))
    event = verify_webhook(body, signed, SECRET, START + timedelta(seconds=290))
    assert event == WebhookEvent("evt_1", "account.updated", "acct_ana", "acct_ana")
    platforms = {k: v for k, v in EVENT.items() if k != "account"} | {"data": {"object": {}}}
    body = json.dumps(platforms).encode()
    signed = signature(body.decode(), SECRET, int(START.timestamp()))
    bare = verify_webhook(body, signed, SECRET, START)
    assert (bare.account, bare.object_id) == (None, None)


@pytest.mark.parametrize(
    "about",
    [
        *({"id": "SUMMER-25"}, {"id": "gold monthly"}, {"id": "upcoming_in_1-2"}),
        *({"id": "é" * 300}, {"id": 7}, {"id": None}, {"id": {"x": 1}}, {}, None, [], "text"),
    ],
)
def test_what_is_not_acted_on_is_not_looked_at(lite: Platform, about: Any) -> None:
    """Coupons and plans have ids of the platform's own choosing; other kinds have none."""
    answer = lite.event(type="coupon.created", account=None, created=1e30, data={"object": about})
    assert (answer.status_code, answer.json) == (200, {"received": True, "new": True})
    (event,) = lite.rows(StripeEvent)
    assert (event.type, event.handled_at, event.error) == ("coupon.created", START, None)
    assert lite.runs() == []


# The endpoint


def signed(body: bytes, secret: str = SECRET, age: int = 0) -> str:
    return signature(body.decode(), secret, int(START.timestamp()) - age)


GOOD = json.dumps(EVENT).encode()


@pytest.mark.parametrize(
    ("body", "header", "status"),
    [
        (GOOD, "", 400),
        (GOOD, "nonsense", 400),
        (GOOD, "t=1,v1=", 400),
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
        (b'{"object": "v2.core.event"}', signed(b'{"object": "v2.core.event"}'), 400),
        (b"[" * 50_000, signed(b"[" * 50_000), 400),
        (GOOD.replace(b"evt_1", b"evt 1"), signed(GOOD.replace(b"evt_1", b"evt 1")), 400),
        (b" " * 1_100_000, signed(b" " * 1_100_000), 413),
    ],
)
def test_what_is_not_stripes_is_refused_and_leaves_nothing(
    lite: Platform, caplog: pytest.LogCaptureFixture, body: bytes, header: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = lite.post(body, header)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert lite.rows(StripeEvent) == lite.runs() == []
    assert SECRET not in answer.text + caplog.text
    assert "another" not in answer.text
    if status == 400:
        assert [one.__dict__["why"] for one in caplog.records if one.msg == "webhook refused"]
        with pytest.raises(StripeWebhookRefused) as refused:
            verify_webhook(body, header, SECRET, START)
        assert (refused.value.status, refused.value.__cause__) == (400, None)


def test_either_endpoint_s_secret_will_do(lite: Platform) -> None:
    """Stripe has one endpoint for the platform's events and one for its accounts', each its own."""
    both = SecretStr(f"whsec_of_the_accounts, {SECRET},")
    settings = lite.made.settings.model_copy(update={"stripe_webhook_secret": both})
    lite.app = Flask("both")
    wiring.mount(lite.app, replace(lite.made, settings=settings))
    for n, secret in enumerate((SECRET, "whsec_of_the_accounts")):
        body = json.dumps({**EVENT, "id": f"evt_{n}"}).encode()
        assert lite.post(body, signed(body, secret)).status_code == 200
    for secret in ("", ",", both.get_secret_value(), "whsec_another"):
        assert lite.post(GOOD, signed(GOOD, secret)).status_code == 400
    assert len(lite.rows(StripeEvent)) == 2
    with pytest.raises(StripeWebhookRefused, match="no secret"):
        verify_webhook(GOOD, signed(GOOD, ""), " , ", START)


def test_without_a_secret_the_webhook_is_off(lite: Platform) -> None:
    settings = lite.made.settings.model_copy(update={"stripe_webhook_secret": None})
    lite.app = Flask("off")
    wiring.mount(lite.app, replace(lite.made, settings=settings))
    answer = lite.post(GOOD)
    assert (answer.status_code, answer.content_type) == (503, "application/problem+json")
    assert lite.rows(StripeEvent) == []


def test_a_doubled_and_a_replayed_event_are_one_run(platform: Platform, stand: Stand) -> None:
    first, second = platform.event(), platform.event()
    assert (first.json, second.json) == (
        {"received": True, "new": True},
        {"received": True, "new": False},
    )
    platform.drain()
    platform.clock.now += timedelta(days=3)
    assert platform.event(pending_webhooks=0).json["new"] is False
    platform.drain()
    assert platform.result()["eventId"] == "evt_1"
    assert [run.job for run in platform.runs()] == ["handle-stripe-event"]


def test_the_snapshot_is_not_trusted(lite: Platform, stand: Stand) -> None:
    """An old event that says otherwise, and comes last, changes nothing."""
    stand.account(payouts_enabled=False)
    lite.event(id="evt_new")
    lite.event(id="evt_old", created=EVENT["created"])
    lite.drain()
    assert lite.gates() == (False, True, None)
    assert [run.status for run in lite.runs()] == ["succeeded"] * 2


@pytest.mark.parametrize(
    ("key", "livemode", "acted_on"),
    [
        ("sk_live_webhooks", False, False),
        ("rk_live_webhooks", False, False),
        ("sk_live_webhooks", True, True),
        ("sk_test_webhooks", False, True),
    ],
)
def test_a_live_platform_does_not_act_on_test_mode(
    lite: Platform, stand: Stand, key: str, livemode: bool, acted_on: bool
) -> None:
    """Its Connect endpoint is sent test events too; asked for with a live key, nothing is there."""
    gateways = Gateways(stripe=StripeGateway(key, stand.url))
    made = replace(lite.made, engine=replace(lite.engine, gateways=gateways))
    lite.app = Flask("mode")
    wiring.mount(lite.app, made)
    assert lite.event(livemode=livemode).json == {"received": True, "new": True}
    assert [run.job for run in lite.runs()] == ["handle-stripe-event"] * acted_on
    (event,) = lite.rows(StripeEvent)
    assert (event.handled_at is None, event.error) == (acted_on, None)


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


def test_an_overtaken_fetch_is_made_again(platform: Platform, stand: Stand) -> None:
    def meanwhile() -> None:
        stand.account(payouts_enabled=False)
        platform.event(id="evt_2")
        platform.queue.work(platform.engine)
        assert platform.gates() == (False, True, None)

    real = platform.made.engine.gateways.stripe
    slow = cast(StripeGateway, Overtaken(real, meanwhile))
    platform.engine = replace(platform.engine, gateways=Gateways(stripe=slow))
    platform.event(id="evt_1")
    platform.drain()
    assert platform.gates() == (False, True, None)
    assert [run.status for run in platform.runs()] == ["succeeded"] * 2


def test_a_reversed_transfer_of_nobodys_waits_for_a_person(lite: Platform, stand: Stand) -> None:
    id_ = stand.transfer()
    stand.sdk.v1.transfers.reversals.create(id_, {"amount": 200})
    error = "reversed, and not a transfer of the ledger's"
    lite.event(type="transfer.reversed", account=None, data={"object": {"id": id_}})
    lite.drain()
    assert lite.result() == {
        "eventId": "evt_1",
        "type": "transfer.reversed",
        "objectId": id_,
        "amountReversed": 200,
        "error": error,
    }
    (event,) = lite.rows(StripeEvent)
    assert (event.error, event.handled_at is None) == (error, False)


def handled(platform: Platform) -> int:
    with platform.made.db.autocommit() as connection:
        chosen = select(func.count()).where(StripeEvent.handled_at.is_not(None))
        return connection.scalar(chosen) or 0


@pytest.mark.parametrize("kind", sorted(ACTS_ON))
def test_an_event_of_a_thing_stripe_does_not_have_ends_and_is_named(
    lite: Platform, stand: Stand, kind: str
) -> None:
    account = "acct_gone" if kind == "account.application.deauthorized" else "acct_ana"
    gone = {"object": {"id": "acct_gone" if kind == "account.updated" else "po_gone"}}
    assert lite.event(type=kind, account=account, data=gone).json["new"] is True
    lite.drain()
    result = lite.result()
    assert (result["eventId"], result["type"], handled(lite)) == ("evt_1", kind, 1)
    if kind.startswith("account."):
        # It is nobody's account here: nothing to name, and nobody's gates are touched.
        assert (result["creators"], result["disabled_reason"]) == (0, "not_at_stripe")
    else:
        assert result["error"].startswith("not to be had from Stripe: ")
        assert lite.rows(StripeEvent, StripeEvent.error) == [(result["error"],)]
    assert lite.gates() == (True, True, None)


def test_a_bank_payout_that_is_no_payouts_is_left_alone(lite: Platform, stand: Stand) -> None:
    stand.transfer()
    lite.event(type="payout.failed", data={"object": {"id": stand.bank().id}})
    lite.drain()
    result = lite.result()
    told = {"status": "pending", "failureCode": None, "payoutId": None, "error": None}
    assert {name: result[name] for name in told} == told
    assert handled(lite) == 1


@pytest.mark.parametrize("kind", ["balance.available", "payout.updated", "transfer.created"])
def test_other_events_are_kept_and_done_with(lite: Platform, stand: Stand, kind: str) -> None:
    first = lite.event(type=kind, data={"object": {}})
    assert (first.status_code, first.json) == (200, {"received": True, "new": True})
    assert lite.event(type=kind, data={"object": {}}).json["new"] is False
    (event,) = lite.rows(StripeEvent)
    assert (event.type, event.error, event.handled_at) == (kind, None, START)
    assert lite.runs() == []
    assert lite.gates() == (True, True, None)

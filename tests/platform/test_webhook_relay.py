"""Webhooks from the source to the targets: verified, kept once, sent on, dead, retried."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.local.stripe.webhooks import signature as stripe_signature
from app.platform.webhooks import jobs
from app.platform.webhooks.models import Received
from app.platform.webhooks.pages import MAX_BYTES
from app.switchyard.dispatch import dispatch
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow
from tests.support.receiver import Receiver, receiving, signature
from tests.support.site import START, Site

KEY, OTHER, CRM, WAREHOUSE = (bytes([n]) * 32 for n in (1, 2, 3, 4))
BODY = b'{"action": "opened",  "name": "Zo\xc3\xab"}'
STRIPE = "whsec_0123456789abcdefghij"


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def signed(
    body: bytes = BODY, id_: str = "msg_1", key: bytes = KEY, age: int = 0, prefix: str = "webhook"
) -> dict[str, str]:
    """A source's headers, `age` seconds old when the platform begins."""
    stamp = str(int(START.timestamp()) - age)
    code = signature(key, f"{id_}.{stamp}.".encode() + body)
    return {
        f"{prefix}-id": id_,
        f"{prefix}-timestamp": stamp,
        f"{prefix}-signature": f"v1,bm90IHRoaXM= v1a,x {code}",
        "Authorization": "Bearer not-for-others",
        "Content-Type": "application/json; charset=utf-8",
    }


class Platform(Site):
    """The endpoints on a runtime with an in-memory queue, and its clock."""

    def __init__(self, url: str, crm: Receiver, warehouse: Receiver) -> None:
        self.crm, self.warehouse = crm, warehouse
        wanted = {"secret": secret(CRM), "sources": ["shop", "stripe"]}
        targets = {
            "crm": {**wanted, "url": f"{crm.url}/in?from=relay"},
            "warehouse": {"secret": secret(WAREHOUSE), "url": f"{warehouse.url}/w"},
        }
        super().__init__(
            url,
            stripe_webhook_secret=SecretStr(STRIPE),
            webhook_sources=json.dumps(
                {"shop": [secret(OTHER), secret(KEY)], "idle": [secret(KEY)]}
            ),
            webhook_targets=json.dumps(targets),
        )

    def post(self, source: str, headers: dict[str, str], body: bytes = BODY) -> Any:
        path = f"/api/webhooks/{source}"
        return self.app.test_client().post(path, data=body, headers=headers)

    def exhaust(self) -> None:
        for _ in range(6):
            self.work()
            self.later(timedelta(hours=1))

    def dead(self) -> list[Any]:
        chosen = select(RunRow.id, RunRow.key, RunRow.error).where(RunRow.status == "failed")
        return self.db.rows(chosen.order_by(RunRow.key))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with receiving() as crm, receiving() as warehouse:
        made = Platform(f"sqlite:///{tmp_path / 'test.db'}", crm, warehouse)
        yield made
        made.db.dispose()


def test_a_webhook_goes_to_each_target_once_with_its_own_signature(platform: Platform) -> None:
    for new in (True, False):
        answer = platform.post("shop", signed())
        assert (answer.status_code, answer.json) == (200, {"received": True, "new": new})
    platform.work()
    platform.later(timedelta(days=3))
    platform.work()
    platform.post("shop", signed(key=OTHER, age=-3 * 24 * 3600))
    platform.work()
    for receiver, key in ((platform.crm, CRM), (platform.warehouse, WAREHOUSE)):
        [(_, headers, body)] = receiver.got
        assert body == BODY
        id_, at = headers["webhook-id"], headers["webhook-timestamp"]
        assert headers["webhook-signature"] == signature(key, f"{id_}.{at}.".encode() + body)
        assert id_.startswith("shop_")
        assert int(at) == int(START.timestamp())
        assert headers["webhook-source"] == "shop"
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert "authorization" not in headers
    assert platform.crm.got[0][0] == "/in?from=relay"


def test_what_makes_two_webhooks_the_same(platform: Platform) -> None:
    assert platform.post("shop", signed(id_="a")).json["new"]
    # Another event of the same body is another event; the same one of another body is an error.
    assert platform.post("shop", signed(id_="b")).json["new"]
    other = platform.post("shop", signed(b"{}", "a"), b"{}")
    assert (other.status_code, other.json["title"]) == (409, "Event known with another body")
    assert not platform.post("shop", signed(id_="a", age=240, prefix="svix")).json["new"]
    assert platform.post("idle", signed(id_="a")).json["new"]
    assert (platform.count(Received), platform.count(RunRow)) == (3, 2 * 2 + 1)


def test_what_is_not_the_sources_is_refused_logged_and_not_kept(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    good = signed()
    forged: list[tuple[dict[str, str], str]] = [
        ({}, "missing or malformed"),
        (signed(BODY + b" "), "no secret"),
        (signed(key=CRM), "no secret"),
        (signed(age=310), "too old"),
        (signed(age=-310), "too new"),
        ({**good, "webhook-id": "msg_2"}, "no secret"),
        ({**good, "webhook-timestamp": "nan"}, "malformed"),
        ({**good, "webhook-signature": "v1,é v2"}, "malformed"),
        ({**good, "webhook-signature": "v1,é"}, "malformed"),
        ({**good, "webhook-signature": "v1,=== v2,x"}, "no secret"),
        ({**good, "svix-id": "msg_2"}, "missing"),
    ]
    for headers, why in forged:
        caplog.clear()
        answer = platform.post("shop", headers)
        assert (answer.status_code, answer.json["title"]) == (401, "Signature refused"), headers
        assert why in answer.json["detail"]
        [record] = [record for record in caplog.records if record.msg == "webhook refused"]
        assert (record.__dict__["source"], why in record.__dict__["why"]) == ("shop", True)
    huge = b"x" * (MAX_BYTES + 1)
    for source, headers, body, status, why in (
        ("shop", signed(b"\xff"), b"\xff", 422, "UTF-8"),
        ("unknown", good, BODY, 404, "does not name it"),
        ("shop", signed(id_="an id"), BODY, 422, "printable"),
        ("shop", signed(huge), huge, 413, "exceeds the capacity"),
        ("stripe", {}, BODY, 400, "the signature is missing"),
    ):
        caplog.clear()
        assert platform.post(source, headers, body).status_code == status
        [record] = [record for record in caplog.records if record.msg == "webhook refused"]
        assert (record.__dict__["source"], why in record.__dict__["why"]) == (source, True)
    assert platform.app.test_client().get("/api/webhooks/shop").status_code == 405
    assert (platform.count(Received), platform.count(RunRow)) == (0, 0)


@pytest.mark.parametrize("source", ["shop", "stripe"])
def test_a_false_signature_costs_no_memory_whatever_the_body(
    platform: Platform, source: str
) -> None:
    """S1, for the platform's own endpoints."""
    stripe_header = f"t={int(START.timestamp())},v1={'0' * 64}"
    headers, body = {**signed(b"another"), "Stripe-Signature": stripe_header}, b" " * MAX_BYTES
    platform.post(source, headers)
    tracemalloc.start()
    try:
        assert platform.post(source, headers, body).status_code in (400, 401)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [500, 302])
def test_a_dead_letter_is_a_failed_run_and_retried(platform: Platform, status: int) -> None:
    platform.crm.status = status
    platform.crm.headers = (
        {"Location": f"{platform.warehouse.url}/elsewhere"} if status == 302 else {}
    )
    platform.post("shop", signed())
    platform.exhaust()
    assert len(platform.crm.got) == 5
    [dead] = platform.dead()
    assert dead.key.endswith(":crm")
    assert f"answered {status}" in dead.error
    assert "from=relay" not in dead.error
    platform.crm.status = 200
    operate.retry(platform.runtime.store, dead.id)
    platform.work()
    assert len({got[1]["webhook-id"] for got in platform.crm.got}) == 1
    assert (len(platform.crm.got), len(platform.warehouse.got), platform.dead()) == (6, 1, [])


def test_stripes_go_on_too_once(platform: Platform) -> None:
    about: dict[str, Any] = {
        "id": "evt_1",
        "object": "event",
        "created": 1,
        "type": "charge.succeeded",
    }
    about["data"] = {"object": {"id": "ch_1", "object": "charge"}}
    bodies = [json.dumps({**about, "pending_webhooks": n}) for n in (2, 2, 1)]
    for body in bodies:
        code = stripe_signature(body, STRIPE, int(START.timestamp()))
        answer = platform.post("stripe", {"Stripe-Signature": code}, body.encode())
        assert answer.json == {"received": True}
    platform.work()
    for end in (platform.crm, platform.warehouse):
        [(_, headers, sent)] = end.got
        assert (headers["webhook-source"], sent) == ("stripe", bodies[0].encode())
        assert "stripe-signature" not in headers


def test_a_webhook_is_kept_for_as_long_as_runs_keep_their_steps(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 2)
    platform.crm.status = 503
    for number in range(3):
        platform.post("shop", signed(id_=f"msg_{number}"))
    platform.exhaust()
    dead = platform.dead()
    for days, deleted in ((platform.runtime.settings.retention_days - 1, 0), (2, 3), (1, 0)):
        platform.now += timedelta(days=days)
        run = dispatch("prune-ledger")
        platform.work()
        assert json.loads(platform.run(run.id).result)["webhooks"] == deleted
    operate.retry(platform.runtime.store, dead[0].id)
    platform.work()
    assert "is no longer kept" in platform.dead()[0].error
    # It may come once more by then; no target gets it twice.
    late = int((START - platform.now).total_seconds())
    assert platform.post("shop", signed(id_="msg_1", age=late)).json["new"]
    platform.work()
    assert len(platform.crm.got) == 3 * 5

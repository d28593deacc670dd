"""Webhooks from the provider to the targets: verified, kept once, sent on, dead, replayed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pydantic import SecretStr
from sqlalchemy import func, select

import flags
from app.local.stripe.webhooks import signature as stripe_signature
from app.platform.webhooks.inbox import KEPT, Received, prune
from app.platform.webhooks.pages import MAX_BYTES
from app.switchyard import job as catalogue
from app.switchyard import runtime, web
from app.switchyard.commands import register_commands
from app.switchyard.config import Settings, load
from app.switchyard.dispatch import dispatch
from app.switchyard.extension import build, make_runtime
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.relay import sweep
from tests.support.dying import dying
from tests.support.receiver import Receiver, receiving, signature
from tests.support.sides import Fixed, both, environment, fresh, relaying
from tests.support.tables import create_all
from tests.support.waiting import until

START = datetime(2025, 1, 15, 9, tzinfo=UTC)
KEY, CRM, WAREHOUSE = (bytes([n]) * 32 for n in (1, 2, 3))
BODY = b'{"action": "opened",  "name": "Zo\xc3\xab"}'
GITHUB = "a:secret=of/github"


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


SOURCES = (
    f"github=hex@X-Hub-Signature-256/X-GitHub-Delivery:{GITHUB}"
    f" github=hex@X-Hub-Signature-256/X-GitHub-Delivery:the-next-secret"
    f" shop=base64@X-Shop-Hmac-Sha256:shop-secret partner=standard:{secret(KEY)}"
)


def targets(crm: Receiver, warehouse: Receiver) -> str:
    return (
        f"crm=github,partner,stripe:{secret(CRM)}:{crm.url}/in?from=relay"
        f" warehouse=*:{secret(WAREHOUSE)}:{warehouse.url}/w"
    )


def github(body: bytes = BODY, id_: str = "72d3162e", key: str = GITHUB) -> dict[str, str]:
    code = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return {
        "X-Hub-Signature-256": f"sha256={code}",
        "X-GitHub-Delivery": id_,
        "X-GitHub-Event": "issues",
        "X-Forwarded-For": "203.0.113.9",
        "Authorization": "Bearer not-for-others",
        "Content-Type": "application/json; charset=utf-8",
    }


def standard(at: datetime, body: bytes = BODY, id_: str = "msg_1") -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    signed = signature(KEY, f"{id_}.{stamp}.".encode() + body)
    return {
        "webhook-id": id_,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,bm90IHRoaXM= v1a,x {signed}",
    }


def shop(body: bytes = BODY) -> dict[str, str]:
    code = hmac.new(b"shop-secret", body, hashlib.sha256).digest()
    return {"X-Shop-Hmac-Sha256": base64.b64encode(code).decode()}


class Platform:
    """The endpoints on a runtime with an in-memory queue, and its clock."""

    def __init__(self, url: str, crm: Receiver, warehouse: Receiver) -> None:
        self.now = START
        self.crm, self.warehouse = crm, warehouse
        self.queue = MemoryBackend()
        self.queue.name = "rq"
        settings = Settings(
            database_url=url,
            stripe_webhook_secret=SecretStr("whsec_0123456789abcdefghij"),
            webhook_sources=SecretStr(SOURCES),
            webhook_targets=SecretStr(targets(crm, warehouse)),
            webhook_loopback=True,
        )
        self.made = make_runtime(settings, clock=lambda: self.now, backends=[self.queue])
        create_all(self.made.db.engine)
        self.app = Flask("webhooks")
        self.app.extensions["switchyard"] = self.made
        web.register(self.app, self.made)
        register_commands(self.app)

    def post(self, source: str, headers: dict[str, str], body: bytes = BODY) -> Any:
        path = f"/api/webhooks/{source}"
        return self.app.test_client().post(path, data=body, headers=headers)

    def work(self) -> None:
        self.queue.work(self.made.engine)

    def later(self, wait: timedelta) -> None:
        self.now += wait
        sweep(self.made.store)
        self.work()

    def exhaust(self) -> None:
        for _ in range(5):
            self.work()
            self.later(timedelta(hours=1))

    def count(self, model: Any) -> int:
        with self.made.db.autocommit() as connection:
            return connection.execute(select(func.count()).select_from(model)).scalar_one()

    def cli(self, *args: str, code: int = 0) -> Any:
        told = self.app.test_cli_runner().invoke(args=["webhooks", *args, "--json"])
        assert told.exit_code == code, told.output
        return json.loads(told.stdout) if code == 0 else told.stderr


@pytest.fixture
def ends() -> Iterator[tuple[Receiver, Receiver]]:
    with receiving() as crm, receiving() as warehouse:
        yield crm, warehouse


@pytest.fixture
def platform(database_url: str, ends: tuple[Receiver, Receiver]) -> Iterator[Platform]:
    made = Platform(database_url, *ends)
    yield made
    made.made.db.dispose()


@pytest.fixture
def lite(tmp_path: Path, ends: tuple[Receiver, Receiver]) -> Iterator[Platform]:
    made = Platform(f"sqlite:///{tmp_path / 'test.db'}", *ends)
    yield made
    made.made.db.dispose()


def test_a_webhook_goes_to_each_target_once_and_signed_anew(platform: Platform) -> None:
    for new in (True, False):
        answer = platform.post("github", github())
        assert (answer.status_code, answer.json) == (200, {"received": True, "new": new})
    platform.work()
    platform.later(timedelta(days=3))
    platform.post("github", github())
    platform.work()
    for receiver, key in ((platform.crm, CRM), (platform.warehouse, WAREHOUSE)):
        [(_, headers, body)] = receiver.got
        assert body == BODY
        id_, at = headers["webhook-id"], headers["webhook-timestamp"]
        assert headers["webhook-signature"] == signature(key, f"{id_}.{at}.".encode() + body)
        assert id_.startswith("github_")
        assert int(at) == int(START.timestamp())
        assert headers["webhook-source"] == "github"
        assert headers["x-github-event"] == "issues"
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert not headers.keys() & {"authorization", "x-forwarded-for", "x-hub-signature-256"}
    assert platform.crm.got[0][0] == "/in?from=relay"
    [event] = platform.cli("list")
    assert (event["source"], event["event"], event["bytes"]) == ("github", "72d3162e", len(BODY))
    assert event["deliveries"] == {"crm": "succeeded", "warehouse": "succeeded"}


def test_what_makes_two_webhooks_the_same(platform: Platform) -> None:
    assert platform.post("github", github(id_="a")).json["new"]
    # Another event of the same body is another event; the same one of another body is an error.
    assert platform.post("github", github(id_="b")).json["new"]
    other = platform.post("github", github(b"{}", "a"), b"{}")
    assert (other.status_code, other.json["title"]) == (409, "Event known with another body")
    assert platform.post("github", github(id_="c", key="the-next-secret")).json["new"]
    assert platform.post("partner", standard(START, id_="a")).json["new"]
    assert not platform.post("partner", standard(START + timedelta(minutes=4), id_="a")).json["new"]
    # Without a name the body is what it is known by.
    assert platform.post("shop", shop()).json["new"]
    assert not platform.post("shop", shop()).json["new"]
    assert platform.post("shop", shop(b""), b"").json["new"]
    assert platform.count(Received) == 6
    assert platform.count(RunRow) == 4 * 2 + 2 * 1


def test_the_same_webhook_many_times_at_once_is_one(platform: Platform) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: platform.post("github", github()), range(16)))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert sum(answer.json["new"] for answer in answers) == 1
    platform.work()
    assert (platform.count(Received), platform.count(RunRow)) == (1, 2)
    assert [len(end.got) for end in (platform.crm, platform.warehouse)] == [1, 1]


def test_what_is_not_the_sources_is_refused_and_not_kept(lite: Platform) -> None:
    good, at = github(), int(START.timestamp())
    forged = [
        ("github", {}),
        ("github", {**good, "X-Hub-Signature-256": ""}),
        ("github", {**good, "X-Hub-Signature-256": "sha256="}),
        ("github", {**good, "X-Hub-Signature-256": "sha1=" + good["X-Hub-Signature-256"][7:]}),
        ("github", {**good, "X-Hub-Signature-256": "sha256=é" + "0" * 63}),
        ("github", github(BODY + b" ")),
        ("github", github(key="guessed-secret")),
        ("github", shop()),
        ("shop", github()),
        ("shop", {"X-Shop-Hmac-Sha256": ""}),
        ("partner", {}),
        ("partner", standard(START, BODY + b" ")),
        ("partner", standard(START - timedelta(seconds=301))),
        ("partner", standard(START + timedelta(seconds=301))),
        ("partner", {**standard(START), "webhook-id": "msg_2"}),
        ("partner", {**standard(START), "webhook-timestamp": str(at + 1)}),
        ("partner", {**standard(START), "webhook-timestamp": "never"}),
        ("partner", standard(START, id_="msg.1")),
        ("partner", {**standard(START), "webhook-signature": "v1,"}),
        ("partner", {**standard(START), "webhook-signature": ""}),
    ]
    for source, headers in forged:
        answer = lite.post(source, headers)
        assert (answer.status_code, answer.json["status"]) == (401, 401), headers
        assert answer.content_type == "application/problem+json"
    assert lite.post("unknown", good).status_code == 404
    assert lite.post("github", {**good, "X-GitHub-Delivery": ""}).status_code == 422
    huge = b"x" * (MAX_BYTES + 1)
    assert lite.post("github", github(huge), huge).status_code == 413
    assert lite.app.test_client().get("/api/webhooks/github").status_code == 405
    assert (lite.count(Received), lite.count(RunRow)) == (0, 0)


def test_a_target_that_fails_first_gets_it_later(lite: Platform) -> None:
    lite.crm.status = 500
    lite.post("github", github())
    lite.work()
    assert [len(end.got) for end in (lite.crm, lite.warehouse)] == [1, 1]
    lite.crm.status = 200
    lite.later(timedelta(seconds=9))
    assert len(lite.crm.got) == 1
    lite.later(timedelta(seconds=2))
    first, second = lite.crm.got
    assert first[1]["webhook-id"] == second[1]["webhook-id"]
    assert first[1]["webhook-timestamp"] != second[1]["webhook-timestamp"]
    assert len(lite.warehouse.got) == 1
    assert lite.cli("dead") == []


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_dead_letter_is_seen_and_replayed(lite: Platform, status: int) -> None:
    lite.crm.status = status
    lite.crm.headers = {"Location": f"{lite.warehouse.url}/elsewhere"} if status == 302 else {}
    for id_ in ("a", "b"):
        lite.post("github", github(id_=id_))
    lite.exhaust()
    assert len(lite.crm.got) == 2 * 5
    dead = lite.cli("dead")
    assert [row["target"] for row in dead] == ["crm", "crm"]
    assert f"answered {status}" in dead[0]["error"]
    assert "from=relay" not in dead[0]["error"]
    assert lite.cli("dead", "--target", "warehouse") == []
    lite.crm.status = 200
    assert lite.cli("replay", dead[0]["run"]) == {"replayed": [dead[0]["run"]]}
    lite.work()
    assert len(lite.crm.got) == 11
    assert lite.cli("replay", "--all", "--target", "warehouse") == {"replayed": []}
    assert lite.cli("replay", "--all") == {"replayed": [dead[1]["run"]]}
    lite.work()
    assert len(lite.crm.got) == 12
    assert {got[1]["webhook-id"] for got in lite.crm.got[10:]} == {
        got[1]["webhook-id"] for got in lite.crm.got[:10]
    }
    assert len(lite.warehouse.got) == 2
    assert lite.cli("dead") == []
    assert "no dead letter" in lite.cli("replay", dead[0]["run"], code=2)
    assert "give runs, or --all" in lite.cli("replay", code=2)


def test_stripes_go_on_too_once(lite: Platform) -> None:
    body = json.dumps(
        {
            "id": "evt_1",
            "object": "event",
            "created": 1,
            "type": "charge.succeeded",
            "data": {"object": {"id": "ch_1", "object": "charge"}},
        }
    )
    for new in (True, False):
        signed = stripe_signature(body, "whsec_0123456789abcdefghij", int(START.timestamp()))
        answer = lite.post("stripe", {"Stripe-Signature": signed}, body.encode())
        assert answer.json == {"received": True, "new": new}
    lite.work()
    for end in (lite.crm, lite.warehouse):
        [(_, headers, sent)] = end.got
        assert (headers["webhook-source"], sent) == ("stripe", body.encode())
        assert "stripe-signature" not in headers
    names = [row["name"] for row in lite.cli("sources")]
    assert names == ["stripe", "github", "shop", "partner"]


def test_a_body_is_kept_for_thirty_days(platform: Platform) -> None:
    platform.crm.status = 503
    platform.post("github", github())
    platform.exhaust()
    [dead] = platform.cli("dead")
    for days, forgotten in ((KEPT.days - 1, 0), (2, 1), (1, 0)):
        platform.now += timedelta(days=days)
        run = dispatch("forget-webhooks")
        platform.work()
        with platform.made.db.autocommit() as connection:
            told = select(RunRow.result).where(RunRow.id == run.id)
            assert json.loads(str(connection.execute(told).scalar_one())) == {
                "forgotten": forgotten
            }
    platform.cli("replay", dead["run"])
    platform.work()
    assert "is no longer kept" in platform.cli("dead")[0]["error"]
    # It is still known: the provider may send it once more.
    assert not platform.post("github", github()).json["new"]
    with platform.made.db.session() as tx:
        assert prune(tx, platform.now, "") == (1, None)
    # Long after that too, and no target gets it twice.
    assert platform.post("github", github()).json["new"]
    platform.work()
    assert len(platform.crm.got) == 5


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps that can be waited for, in this process too, and for no test that comes after."""
    jobs = catalogue.load("app.platform.webhooks.jobs")
    spec = replace(jobs["deliver-webhook"], gaps=(0.2,))
    monkeypatch.setattr(jobs, "_jobs", {**jobs, spec.name: spec})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("backend", ["rq", "inngest"])
def test_on_real_workers_once_per_target(
    backend: str, tmp_path: Path, redis_url: str, ends: tuple[Receiver, Receiver]
) -> None:
    crm, warehouse = ends
    crm.status = 500
    more = {
        "SWITCHYARD_JOBS": "tests.support.webhook_jobs",
        "WEBHOOK_SOURCES": SOURCES,
        "WEBHOOK_TARGETS": targets(crm, warehouse),
        "WEBHOOK_LOOPBACK": "true",
        "LEASE_SECONDS": "60",  # nobody dies here
    }
    with both(f"sqlite:///{tmp_path / 'test.db'}", redis_url, tmp_path, **more) as side:
        app = Flask("endpoint")
        web.register(app, side.made)
        client = app.test_client()
        other = {"rq": "inngest", "inngest": "rq"}
        for id_ in ("a", "b", "c"):
            # The flag flips between the provider's two deliveries.
            for where in (backend, other[backend]):
                flags.configure(Fixed(where))
                answer = client.post("/api/webhooks/github", data=BODY, headers=github(id_=id_))
                assert answer.status_code == 200
        until(lambda: len(crm.got) >= 3)
        crm.status = 200
        until(lambda: _succeeded(side.made) == 6)
    taken = [got[1]["webhook-id"] for got in warehouse.got]
    assert len(taken) == len(set(taken)) == 3
    assert {got[1]["webhook-id"] for got in crm.got} == set(taken)
    assert len(crm.got) >= 6
    with side.made.db.autocommit() as connection:
        assert set(connection.execute(select(RunRow.backend)).scalars()) == {backend}


def _succeeded(made: runtime.Runtime) -> int:
    chosen = select(func.count()).select_from(RunRow).where(RunRow.status == "succeeded")
    with made.db.autocommit() as connection:
        return connection.execute(chosen).scalar_one()


@pytest.mark.usefixtures("quick")
def test_a_worker_killed_at_each_point_loses_none(
    tmp_path: Path, redis_url: str, ends: tuple[Receiver, Receiver]
) -> None:
    crm, warehouse = ends
    url = f"sqlite:///{tmp_path / 'test.db'}"
    environ = environment(
        url,
        redis_url,
        SWITCHYARD_JOBS="tests.support.webhook_jobs",
        WEBHOOK_SOURCES=SOURCES,
        WEBHOOK_TARGETS=targets(crm, warehouse),
        WEBHOOK_LOOPBACK="true",
    )
    deaths = tmp_path / "deaths"
    with ExitStack() as stack:
        fresh(url, environ, None).db.dispose()
        app = build(load(environ))
        made = runtime.current()
        stack.callback(made.db.dispose)
        flags.configure(Fixed("rq"))
        environ |= {"SWITCHYARD_CRASH_EACH": str(deaths)}
        stack.enter_context(dying("rq", environ, 0, tmp_path / "worker.log"))
        stack.enter_context(relaying(made))
        answer = app.test_client().post("/api/webhooks/github", data=BODY, headers=github())
        assert answer.json == {"received": True, "new": True}
        until(lambda: _succeeded(made) == 2)
        assert {"step.uncommitted@deliver", "step.recorded@deliver"} <= set(
            deaths.read_text().split()
        )
    for end in (crm, warehouse):
        # Sent again where the death fell between the target's word and the ledger: under one id.
        assert len({got[1]["webhook-id"] for got in end.got}) == 1

"""Whatever is sent to whichever route, signed or not, is no error of ours: no 5xx.

The routes are the app's own list; a seed makes each call, so that a failure can be sent again.
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.local.stripe.webhooks import signature as stripe_signature
from app.switchyard.dispatch import dispatch
from tests.platform.test_webhook_relay import KEY, secret, signed
from tests.support.console import csrf, log_in
from tests.support.sides import CURRENT_KEY, NEXT_KEY, app_on, environment
from tests.switchyard import test_qstash_deliveries as qstash
from tests.switchyard.test_signed_calls import a_call, mac

TRIES = 30
TOKEN = "0123456789abcdef-admin"
STRIPE = "whsec_0123456789abcdefghij"
INNGEST = "0123456789abcdef" * 4
LIVE = {
    "INNGEST_EVENT_KEY": "event",
    "INNGEST_SIGNING_KEY": INNGEST,
    "INNGEST_BASE_URL": "http://127.0.0.1:1",
    "QSTASH_TOKEN": "token",
    "QSTASH_URL": "http://127.0.0.1:1",
    "QSTASH_CURRENT_SIGNING_KEY": CURRENT_KEY,
    "QSTASH_NEXT_SIGNING_KEY": NEXT_KEY,
    "BACKEND_URL": qstash.ORIGIN,
    "ADMIN_TOKEN": TOKEN,
    "SECRET_KEY": "a-secret-of-twenty-c",
    "STRIPE_WEBHOOK_SECRET": STRIPE,
    "WEBHOOK_SOURCES": json.dumps({"shop": [secret(KEY)]}),
}
WORDS = [
    *("", " ", "a\0b", "\ud800", "\udfff\ud800", "\r\nX-Other: 1", "x" * 300, "é" * 200, "\u202e"),
    *("../../etc/passwd", "%00", "%", "' OR 1=1 --", "null", "NaN", "1e999", "-1", "٣", "\x7f"),
    *("process-payouts", "payout.scheduled", "runs.canary", "runs.shadow", "canary", "rq", "ramp"),
    *("live", "complete", "legacy", "pending", "failed", "serverless", "0" * 26, "f" * 26),
    *("2025-01-15", "9999-12-31", "2025-02-30T99:99:99Z", "acct_1", "evt_1", "shop", "stripe"),
]
NUMBERS = [0, -1, 1, 1.5, 2**31, 2**63, 2**70, -(2**70), 1e30, 1e308, 10**400, True]
BODIES: dict[str, Any] = {
    "/api/inngest/trigger": {
        "name": "payout.scheduled",
        "data": {"payoutDate": "2025-01-15", "dayOfMonth": 15},
        "id": "k",
    },
    "/api/qstash/deliver": {"run": "RUN", "epoch": 1, "job": "canary", "at": 1},
    "/api/webhooks/stripe": {
        "id": "evt_1",
        "object": "event",
        "type": "payout.failed",
        "created": 1_700_000_000,
        "account": "acct_1",
        "livemode": False,
        "data": {"object": {"id": "po_1", "object": "payout", "status": "failed", "amount": 1}},
    },
    "/api/webhooks/<source>": {"id": 1, "name": "x"},
    "/api/jobs/<name>/stage": {"stage": "ramp", "percent": 10, "why": "x", "version": 0},
    "/api/jobs/<name>/drain": {"to": "rq", "running": True, "why": "x", "act": 1, "by": "ada"},
    "/api/jobs/<name>/rollback": {"why": "x", "act": 1, "dry_run": False},
    "/api/jobs/<name>/run": {"data": {"song": "x"}, "why": "x"},
    "/api/rollback": {"why": "x", "dry_run": True},
    "/api/runs/bulk": {"do": "retry", "why": "x", "filter": {"status": "failed", "job": "canary"}},
    "/api/runs/<run_id>/retry": {"why": "x"},
    "/api/runs/<run_id>/cancel": {"why": "x", "by": "ada"},
}
OUTSIDE = ("Backend unavailable", "Not due yet", "Webhooks are off")
FIELDS = ("name", "token", "next", "stage", "percent", "why", "version", "by")


class Calls:
    """Calls of an app's routes, made from a seed."""

    def __init__(self, app: Flask, client: FlaskClient, live: bool, run: str) -> None:
        self.client, self.live, self.run = client, live, run
        self.rules = sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        self.form_token = csrf(client, "/console/jobs/canary")

    def call(self, rule: Any, method: str, luck: random.Random) -> Any:
        path = re.sub(
            r"<[^>]+>",
            lambda _: quote(self.word(luck), safe="", errors="surrogatepass") or "x",
            rule.rule,
        )
        names = [*FIELDS, "job", "status", "backend", "before", "fnId", "stepId", "probe", "page"]
        query = "&".join(
            f"{name}={quote(self.word(luck), errors='surrogatepass')}"
            for name in luck.sample(names, luck.randrange(4))
        )
        if rule.rule == "/api/inngest" and luck.random() < 0.8:
            query = "fnId=switchyard-canary&stepId=step"
        headers = {
            name: self.header(luck)
            for name in ("Accept", "Origin", "Authorization", "Upstash-Message-Id", "Cookie")
            if luck.random() < 0.1
        }
        options: dict[str, Any] = {"headers": headers}
        if rule.rule.startswith("/console") and method == "POST":
            options["data"] = {name: self.form_word(luck) for name in FIELDS}
            options["data"]["csrf"] = luck.choice([self.form_token] * 9 + ["x"])
        elif method in ("POST", "PUT"):
            body = self.body(rule.rule, luck)
            options["data"] = body
            options["content_type"] = luck.choice(["application/json"] * 9 + ["text/plain", "\xe9"])
            if self.live:
                headers |= self.signature(rule.rule, path, body)
        return self.client.open(f"{path}?{query}", method=method, **options)

    def word(self, luck: random.Random) -> str:
        return luck.choice([*WORDS, self.run])

    def form_word(self, luck: random.Random) -> str:
        return self.word(luck).encode("utf-8", "replace").decode()

    def header(self, luck: random.Random) -> str:
        return (
            self.word(luck)
            .encode("latin-1", "replace")
            .decode("latin-1")
            .translate({13: 32, 10: 32})
        )

    def body(self, route: str, luck: random.Random) -> bytes:
        if luck.random() < 0.1:
            return luck.choice([b"", b"\xff\xfe", b"{", b"[" * 5000, b"null", luck.randbytes(50)])
        if route == "/api/inngest":
            mark = {"run": self.run, "epoch": 1}
            data = luck.choice([{"song": "x"}, {"_switchyard": mark}])
            value = json.loads(a_call("runs.canary", data))
        elif route == "/api/qstash/failed":
            sent = self.mutated(BODIES["/api/qstash/deliver"], luck)
            source = base64.b64encode(_bytes(sent)).decode()
            value = {"sourceBody": source, "sourceMessageId": "msg_1", "status": 500}
        else:
            value = BODIES.get(route, {})
        return _bytes(self.mutated(value, luck)).replace(b"RUN", self.run.encode())

    def mutated(self, value: Any, luck: random.Random) -> Any:
        """The value, with some of its parts replaced."""
        if luck.random() < 0.12:
            deep: Any = self.word(luck)
            for _ in range(luck.choice([1, 2, 300])):
                deep = [deep]
            odd: list[Any] = [self.word(luck), luck.choice(NUMBERS), None, {}, [], deep]
            return luck.choice([*odd, {self.word(luck): self.word(luck)}])
        if isinstance(value, dict):
            kept = {name: self.mutated(of, luck) for name, of in value.items()}
            if luck.random() < 0.05:
                kept[self.word(luck)] = luck.choice(NUMBERS)
            return kept
        return value

    def signature(self, route: str, path: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        if route == "/api/inngest":
            return {"x-inngest-signature": f"t={now}&s={mac(body, now, INNGEST)}"}
        if route.startswith("/api/qstash"):
            return {"Upstash-Signature": qstash.signature(body, sub=qstash.ORIGIN + path)}
        if route == "/api/webhooks/stripe":
            return {"Stripe-Signature": stripe_signature(body.decode("latin-1"), STRIPE, now)}
        if route == "/api/webhooks/<source>":
            return signed(body)
        return {"Authorization": f"Bearer {TOKEN}"}


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def calls(request: pytest.FixtureRequest, database_url: str) -> Iterator[Calls]:
    more = LIVE if request.param == "live" else {}
    environ = environment(database_url, "unix:///nowhere", **more)
    del environ["SWITCHYARD_JOBS"]
    with app_on(environ) as app:
        client = app.test_client()
        if request.param == "live":
            assert log_in(client, TOKEN).status_code == 303
        with app.app_context():
            run = dispatch("canary", {"song": "x"}, key="x").id
        yield Calls(app, client, request.param == "live", run)


@pytest.mark.parametrize(
    ("calls", "database_url"), [("local", "postgres"), ("live", "sqlite")], indirect=True
)
def test_no_call_makes_a_5xx(calls: Calls) -> None:
    failed = []
    for rule in calls.rules:
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            for seed in range(TRIES):
                answer = calls.call(rule, method, random.Random(f"{rule.rule} {method} {seed}"))
                if answer.status_code >= 500 and not expected(rule.rule, answer):
                    failed.append((rule.rule, method, seed, answer.status, answer.text[:500]))
    assert failed == []


def expected(route: str, answer: Any) -> bool:
    """Whether it says that a service cannot be reached, or that the call must be repeated."""
    if route == "/readyz":
        return True
    if route == "/api/inngest" and "x-inngest-no-retry" in answer.headers:
        return True  # Inngest's own way to say that a function failed
    title = (answer.get_json(force=True, silent=True) or {}).get("title")
    return answer.status_code == 503 and title in OUTSIDE

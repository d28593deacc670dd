"""Each row of docs/security.md on rotating a key: which calls are taken with those variables."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.local.stripe.webhooks import signature as stripe_signature
from app.platform.config import ROOT
from tests.support.sides import app_on, environment
from tests.switchyard import test_qstash_deliveries as qstash
from tests.switchyard.test_signed_calls import PATH, a_call, mac

KEYS = {"OLD": "0a" * 32, "NEW": "1b" * 32, "NEWER": "2c" * 32}
TAKEN = {
    "the old key": {"OLD"},
    "the old secret": {"OLD"},
    "both": {"OLD", "NEW"},
    "the new key": {"NEW"},
    "the new secret": {"NEW"},
    "the new key and the one after": {"NEW", "NEWER"},
}
ROWS = [
    (variables, TAKEN[taken])
    for variables, taken in re.findall(
        r"^\| [^|]+ \| `([A-Z_]+=\$[^`]+)` \| ([^|]+) \|$",
        (ROOT / "docs" / "security.md").read_text(),
        re.MULTILINE,
    )
]


def by_inngest(client: FlaskClient, key: str) -> bool:
    body, at = a_call(), int(time.time())
    signed = {"x-inngest-signature": f"t={at}&s={mac(body, at, key)}"}
    return client.post(PATH, data=body, headers=signed).status_code == 200


def by_qstash(client: FlaskClient, key: str) -> bool:
    signed = {"Upstash-Signature": qstash.signature(b"{}", key)}
    return client.post("/api/qstash/deliver", data=b"{}", headers=signed).status_code == 489


def by_stripe(client: FlaskClient, key: str) -> bool:
    event = {"id": "evt_1", "object": "event", "type": "x.y", "created": 1, "livemode": False}
    body = json.dumps({**event, "data": {"object": {}}})
    signed = {"Stripe-Signature": stripe_signature(body, key, int(time.time()))}
    return client.post("/api/webhooks/stripe", data=body, headers=signed).status_code == 200


SIGNERS: dict[str, Callable[[FlaskClient, str], bool]] = {
    "INNGEST_SIGNING_KEY": by_inngest,
    "QSTASH_CURRENT_SIGNING_KEY": by_qstash,
    "STRIPE_WEBHOOK_SECRET": by_stripe,
}


def test_every_row_is_read() -> None:
    assert len(ROWS) == 8


@pytest.mark.parametrize(("variables", "taken"), ROWS)
def test_no_call_is_refused_while_a_key_is_rotated(
    tmp_path: Path, variables: str, taken: set[str]
) -> None:
    keys = re.sub(r"\$(\w+)", lambda name: KEYS[name[1]], variables)
    chosen = dict(one.split("=") for one in keys.split())
    more = {"INNGEST_EVENT_KEY": "event", "INNGEST_BASE_URL": "http://127.0.0.1:1", **chosen}
    more |= {"BACKEND_URL": qstash.ORIGIN, "QSTASH_TOKEN": "token"}
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", "unix:///nowhere", **more)
    (signed,) = (signer for name, signer in SIGNERS.items() if name in chosen)
    with app_on(environ) as app:
        client = app.test_client()
        assert {name for name, key in KEYS.items() if signed(client, key)} == taken

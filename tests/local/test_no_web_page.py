"""No web page may drive a local server: what a browser sends for one is refused, and does nothing.

A developer's browser reaches loopback from any site it shows.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from app.local.inngest.standin import InngestStandIn
from app.local.loopback import FORM, HOST, JSON
from app.local.mail import MailSink
from app.local.qstash.server import QStashStandIn
from app.local.stripe.server import StripeStandIn
from tests.support.waiting import PATIENCE_SECONDS

TOKEN = "sk_test_page"
FROM_PAGES = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3005"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:80"},
    {"Host": "192.168.0.9"},
    {"Host": "[::1"},
    {"Host": ""},
]
SIMPLE_TYPES = [None, "", "text/plain", "multipart/form-data; boundary=x", "application/jsonp"]
Post = Callable[[dict[str, str | None]], int]


@pytest.fixture(params=["inngest", "qstash", "stripe-own", "stripe"])
def door(request: pytest.FixtureRequest) -> Iterator[tuple[Post, str]]:
    """Sends a POST that a stand-in acts on, with more headers; and the POST's content type."""
    with ExitStack() as stack:
        stripe = stack.enter_context(StripeStandIn())
        stripe.admin("POST accounts", b'{"accounts": [{"id": "acct_1"}]}')
        stripe.admin("POST topup", b'{"amount": 500}')
        inngest = stack.enter_context(InngestStandIn())
        qstash = stack.enter_context(QStashStandIn(TOKEN, "sig_page"))
        message = b'[{"destination": "http://127.0.0.1:9/", "headers": {}}]'
        transfer = b"amount=500&currency=usd&destination=acct_1"
        url, body, kind = {
            "inngest": (f"{inngest.url}/e/x", b'{"name": "demo.x"}', JSON),
            "qstash": (f"{qstash.url}/v2/batch", message, JSON),
            "stripe-own": (f"{stripe.url}/_standin/topup", b'{"amount": 500}', JSON),
            "stripe": (f"{stripe.url}/v1/transfers", transfer, FORM),
        }[request.param]

        def post(headers: dict[str, str | None]) -> int:
            sent = requests.Request("POST", url, data=body).prepare()
            given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind, **headers}
            sent.headers.update({k: v for k, v in given.items() if v is not None})
            with requests.Session() as session:
                return session.send(sent, timeout=PATIENCE_SECONDS).status_code

        yield post, kind
        assert post({"Content-Type": f"{kind}; charset=utf-8"}) in (200, 201)


def test_what_a_page_sends_is_refused(door: tuple[Post, str]) -> None:
    post, kind = door
    for headers in FROM_PAGES:
        assert post(dict(headers)) == 403, headers
    for wrong in [*SIMPLE_TYPES, JSON if kind == FORM else FORM]:
        assert post({"Content-Type": wrong}) == 415, wrong


def test_a_refused_request_does_nothing() -> None:
    with StripeStandIn() as stripe:
        url, body = f"{stripe.url}/_standin/topup", {"amount": 500}
        for headers in ({"Origin": "http://evil.example"}, {"Content-Type": "text/plain"}):
            requests.post(url, json=body, headers=headers, timeout=PATIENCE_SECONDS)
        assert stripe.store.balance("") == {}
        # A look is refused, too: an answer would show a page what is there.
        page = {"Origin": "http://evil.example"}
        seen = requests.get(f"{stripe.url}/v1/balance", headers=page, timeout=PATIENCE_SECONDS)
        assert seen.status_code == 403


def test_the_mail_server_hangs_up_on_http(tmp_path: Path) -> None:
    mail = b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhi\r\n.\r\n"
    sink = MailSink(tmp_path)
    port = int(sink.start(0).rpartition(":")[2])

    def said(first: bytes) -> bytes:
        with socket.create_connection((HOST, port), PATIENCE_SECONDS) as connection:
            connection.sendall(first + mail + b"QUIT\r\n")
            with connection.makefile("rb") as answers:
                return answers.read()

    for verb in ("POST", "PUT", "get", "OPTIONS"):
        assert b"250 2.0.0" not in said(f"{verb} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert list(tmp_path.glob("*.eml")) == []
    assert b"250 2.0.0" in said(b"")
    assert len(list(tmp_path.glob("*.eml"))) == 1
    sink.stop()

"""Webhooks sent to a real HTTP server: what comes of each answer, and what their settings say."""

from __future__ import annotations

import base64
import json
import logging
import socket
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from app.platform.config import load
from app.platform.gateways import hooks
from app.platform.gateways.hooks import Hook, HookRefused, HookUnavailable
from app.switchyard.errors import SettingsError, SwitchyardError
from tests.support.receiver import TOKEN, Receiver
from tests.support.wire import answering

NOW = datetime(2025, 1, 15, 9, 30, 7, 900_000, tzinfo=UTC)
KEY = bytes(range(32))
SECRET = SecretStr(f"whsec_{base64.b64encode(KEY).decode()}")
BODY = {"type": "payouts.reported", "data": {"name": "Zoë", "amount": 12}}


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        *((status, HookRefused) for status in (400, 401, 404, 410, 422)),
        *((status, HookUnavailable) for status in (408, 429, 500, 502, 503, 304)),
        *((status, HookUnavailable) for status in (301, 302, 307, 308)),
    ],
)
def test_each_answer_has_its_outcome(
    receiver: Receiver, status: int, raised: type[Exception]
) -> None:
    receiver.status = status
    # Where it would lead: no redirect is followed.
    receiver.headers = {"Location": f"{receiver.url}/elsewhere"} if status != 304 else {}
    with pytest.raises(raised) as failed:
        Hook(url=receiver.address, secret=SECRET).post(BODY, "msg_1", NOW)
    assert type(failed.value) is raised
    assert str(failed.value) == f"127.0.0.1 answered {status}"
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("how", "says"),
    [("late", "ReadTimeout"), ("dropped", "ConnectionError"), ("", "ConnectionError")],
)
def test_no_answer_may_be_tried_again(
    receiver: Receiver, how: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is late, hangs up, or does not exist."""
    if how == "late":
        monkeypatch.setattr(hooks, "TIMEOUT_SECONDS", 0.3)
        receiver.release.clear()
    receiver.drop = how == "dropped"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = receiver.address if how else f"http://127.0.0.1:{nobody.getsockname()[1]}/{TOKEN}"
        with pytest.raises(HookUnavailable, match=rf"127\.0\.0\.1: {says}"):
            Hook(url=url, secret=SECRET).post(BODY, "msg_1", NOW)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 No\r\nno header\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n"]
)
def test_no_secret_is_logged_or_sent(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with answering(answer) as (url, _):
        hook = Hook(url=f"{url}/{TOKEN}?{TOKEN}", secret=SECRET)
        with pytest.raises(SwitchyardError) as failed:
            hook.post(BODY, "msg_1", NOW)
    shown = "".join(traceback.format_exception(failed.value))
    for text in (caplog.text, shown, repr(hook)):
        assert TOKEN not in text
        assert SECRET.get_secret_value().removeprefix("whsec_") not in text


# What WEBHOOK_SOURCES and WEBHOOK_TARGETS may say

WORD, NEXT = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
URL = "https://crm.example.com:8443/hooks?a=b:c"
SOURCES = json.dumps({"github": [WORD, NEXT], "partner": [WORD]})
HERE = {"url": URL, "secret": WORD}


def test_what_is_declared() -> None:
    targets = {"crm": {**HERE, "sources": ["github", "stripe"]}, "all": HERE}
    made = load({"WEBHOOK_SOURCES": SOURCES, "WEBHOOK_TARGETS": json.dumps(targets)})
    secrets = [secret.get_secret_value() for secret in made.webhook_sources["github"]]
    assert secrets == [WORD, NEXT]
    crm, every = made.webhook_targets.values()
    assert (str(crm.url.get_secret_value()), crm.secret.get_secret_value()) == (URL, WORD)
    wanted = [crm.wants(name) for name in ("github", "stripe", "partner")]
    assert wanted == [True, True, False]
    assert every.wants("partner")
    assert not [text for text in (WORD, NEXT, "crm.example") if text in repr(made)]
    assert (load({}).webhook_sources, load({}).webhook_targets) == ({}, {})


@pytest.mark.parametrize(
    ("sources", "targets", "says"),
    [
        ("github", {}, "WEBHOOK_SOURCES.*: Invalid JSON"),
        ({"Git": [WORD]}, {}, "WEBHOOK_SOURCES.*: Git: .*String should match pattern"),
        ({"a": []}, {}, "WEBHOOK_SOURCES.*: a: List should have at least 1 item"),
        ({"a": ["whsec_hunter2"]}, {}, "WEBHOOK_SOURCES.*: a: 0: must be whsec_"),
        ({"stripe": [WORD]}, {}, "WEBHOOK_SOURCES.*: stripe has an endpoint"),
        ({}, {"sources": ["shop"]}, "WEBHOOK_SOURCES, WEBHOOK_TARGETS: crm: there is no source"),
        ({}, {"secret": "whsec_hunter2"}, "WEBHOOK_TARGETS: crm: secret: must be whsec_"),
        ({}, {"url": "ftp://a.example/hunter2"}, "WEBHOOK_TARGETS: crm: url: must start with http"),
        ({}, {"source": "github"}, "WEBHOOK_TARGETS: crm: source: Extra inputs are not permitted"),
    ],
)
def test_what_stops_the_start(sources: Any, targets: dict[str, Any], says: str) -> None:
    given = {"WEBHOOK_SOURCES": sources if isinstance(sources, str) else json.dumps(sources)}
    if targets:
        given["WEBHOOK_TARGETS"] = json.dumps({"crm": HERE | targets})
    with pytest.raises(SettingsError, match=f"^{says}") as refused:
        load(given)
    assert not [text for text in ("hunter2", WORD, "\n") if text in str(refused.value)]

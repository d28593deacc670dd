"""Webhooks sent to a real HTTP server: what arrives, and what comes of each answer."""

from __future__ import annotations

import base64
import logging
import socket
import traceback
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from app.platform.gateways import hooks
from app.platform.gateways.hooks import Hook, HookRefused, HookUnavailable
from app.switchyard.errors import SwitchyardError
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
    """It is not waited for, either; and nobody may be listening at all."""
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

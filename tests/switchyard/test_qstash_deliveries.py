"""Deliveries as QStash and as its forgers make them: none but the sound reaches a job's body."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from qstash import Receiver

from app.platform.config import load
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.store import Run
from app.switchyard.runtime import EXTENSION, current, install
from tests.support.marks import marks
from tests.support.sides import (
    CURRENT_KEY,
    NEXT_KEY,
    Fixed,
    app_on,
    build,
    decide_by,
    environment,
    fresh,
    qstash_environment,
)
from tests.support.standins import QStashStandIn
from workflows.qstash import DELIVER, FAILED, unix
from workflows.signature import ANEW_SECONDS, SigningKeys, _claims

ORIGIN = "https://app.example"
URL = ORIGIN + DELIVER
NOBODY = "http://127.0.0.1:1"
OTHER_KEY = "sig_stranger_0123456789abcdefghijklmno"


def signature(raw: bytes, key: str = CURRENT_KEY, **claims: Any) -> str:
    """As QStash signs; a claim of None is left out."""
    now = int(time.time())
    digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode()
    own = {"iss": "Upstash", "sub": URL, "exp": now + 300, "nbf": now, "iat": now, "body": digest}
    said = {name: value for name, value in {**own, **claims}.items() if value is not None}
    return jwt.encode(said, key, algorithm="HS256")


@pytest.fixture(scope="module")
def app(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """What it sends to QStash goes nowhere, so that only the test delivers."""
    url = f"sqlite:///{tmp_path_factory.mktemp('deliveries') / 'test.db'}"
    with app_on(environment(url, redis_url, **qstash_environment(NOBODY, ORIGIN))) as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    install(app.extensions[EXTENSION])
    decide_by(Fixed("qstash"))
    return app.test_client()


def row_of(run: Run) -> Any:
    runtime = current()
    with runtime.db.autocommit() as connection:
        return connection.execute(RunRow.__table__.select().where(RunRow.id == run.id)).one()


def message(run: Run, **more: Any) -> bytes:
    row = row_of(run)
    body = {"run": run.id, "epoch": row.epoch, "job": run.job, "at": unix(row.due_at)}
    return json.dumps({**body, **more}).encode()


def deliver(client: FlaskClient, body: bytes, token: str | None, path: str = DELIVER) -> Any:
    headers = {} if token is None else {"Upstash-Signature": token}
    return client.post(path, data=body, headers=headers, content_type="application/json")


def done(run: Run) -> int:
    """How often the run's body did what it does."""
    return marks(current().db).get(json.loads(row_of(run).payload)["name"], 0)


Forger = Callable[[bytes], tuple[bytes, str | None]]
NOW = time.time


def claims(**changed: Any) -> Forger:
    return lambda body: (body, signature(body, **changed))


FORGERIES: dict[str, Forger] = {
    "no signature": lambda body: (body, None),
    "an empty one": lambda body: (body, ""),
    "no token at all": lambda body: (body, "e30.e30.e30"),
    "a stranger's key": lambda body: (body, signature(body, OTHER_KEY)),
    "no algorithm": lambda body: (
        body,
        jwt.encode(jwt.decode(signature(body), options={"verify_signature": False}), "", "none"),
    ),
    "expired": lambda body: (body, signature(body, exp=int(NOW()) - 60)),
    "expired this second": lambda body: (body, signature(body, exp=int(NOW()) - 1)),
    "too early": lambda body: (body, signature(body, nbf=int(NOW()) + 90, iat=int(NOW()) + 90)),
    "early and expired": lambda body: (
        body,
        signature(body, nbf=int(NOW()) + 5, exp=int(NOW()) - 2),
    ),
    "early, for another URL": lambda body: (
        body,
        signature(body, nbf=int(NOW()) + 5, sub=ORIGIN + FAILED),
    ),
    "early, of another body": lambda body: (body, signature(body + b" ", nbf=int(NOW()) + 5)),
    "another body": lambda body: (body + b" ", signature(body)),
    "another URL": claims(sub=ORIGIN + FAILED),
    "another host": claims(sub="https://elsewhere.example" + DELIVER),
    "the URL with a query": claims(sub=URL + "?x=1"),
    "another issuer": claims(iss="Upstash2"),
    "no issuer": claims(iss=None),
    "no subject": claims(sub=None),
    "no end": claims(exp=None),
    "no beginning": claims(nbf=None),
    "no time of issue": claims(iat=None),
    "no body": claims(body=None),
    "a body that is no text": claims(body=7),
    "a body of half a character": claims(body="\ud800"),
    "a time of issue that is no number": claims(iat="x"),
    "a time of issue past the calendar": claims(iat=1e30),
    "no calendar's time of issue": claims(iat=-(10**15)),
    "an end past the calendar": claims(exp=1e30),
    "an end without an end": claims(exp=float("inf")),
    "a beginning that is no number": claims(nbf=float("nan")),
    "bytes that are no text": lambda body: (b"\xff\xfe" + body, signature(b"\xff\xfe" + body)),
}


def test_nothing_forged_reaches_a_body(client: FlaskClient) -> None:
    for how, forged in FORGERIES.items():
        run = dispatch("child", {"name": uuid4().hex})
        before = row_of(run)
        body, token = forged(message(run))
        answer = deliver(client, body, token)
        refused = (answer.status_code, answer.content_type, answer.json["detail"])
        why = "the request does not bear a valid signature"
        assert refused == (401, "application/problem+json", why), how
        assert (row_of(run), done(run)) == (before, 0), how


@pytest.mark.parametrize("key", [CURRENT_KEY, NEXT_KEY])
@pytest.mark.parametrize("ahead", [0, 5])
def test_either_key_and_a_clock_a_little_ahead(client: FlaskClient, key: str, ahead: int) -> None:
    run = dispatch("child", {"name": uuid4().hex})
    body, at = message(run), int(time.time()) + ahead
    token = signature(body, key, nbf=at, iat=at, exp=at + 300)
    if not ahead:
        Receiver(CURRENT_KEY, NEXT_KEY).verify(signature=token, body=body.decode(), url=URL)
    answer = deliver(client, body, token)
    assert (answer.status_code, answer.json) == (200, {"end": "done"})
    assert (row_of(run).status, done(run)) == ("succeeded", 1)


def test_doubled_and_late_deliveries_do_nothing_more(client: FlaskClient) -> None:
    run = dispatch("child", {"name": uuid4().hex})
    body = message(run)
    token = signature(body)
    answers = [deliver(client, body, token), deliver(client, body, token)]
    later = deliver(client, body, signature(body))
    assert [a.json["end"] for a in (*answers, later)] == ["done", "not_mine", "not_mine"]
    assert done(run) == 1


def test_a_stale_epoch_is_void(client: FlaskClient) -> None:
    run = dispatch("child", {"name": uuid4().hex})
    body = message(run, epoch=7)
    assert deliver(client, body, signature(body)).json == {"end": "not_mine"}
    assert (row_of(run).status, done(run)) == ("pending", 0)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b'{"run": "x"}', b'{"run": 3, "epoch": 1, "at": 1}', b"[" * 9000),
        json.dumps({"run": "a\0b", "epoch": 1, "at": 1}).encode(),
        json.dumps({"run": "x", "epoch": 2**40, "at": 1}).encode(),
    ],
)
def test_what_names_no_run_is_never_tried_again(client: FlaskClient, body: bytes) -> None:
    answer = deliver(client, body, signature(body))
    assert answer.status_code == 489
    assert answer.headers["Upstash-NonRetryable-Error"] == "true"
    assert answer.content_type == "application/problem+json"


def test_a_failed_run_is_never_tried_again(client: FlaskClient) -> None:
    run = dispatch("refuser", {"name": uuid4().hex})
    body = message(run)
    answer = deliver(client, body, signature(body))
    assert (answer.status_code, row_of(run).status) == (489, "failed")
    assert answer.headers["Upstash-NonRetryable-Error"] == "true"


def test_too_early_it_is_to_come_again(client: FlaskClient) -> None:
    run = dispatch("child", {"name": uuid4().hex}, delay=timedelta(hours=1))
    body, due = message(run), row_of(run).due_at.timestamp()
    before = time.time()
    answer = deliver(client, body, signature(body))
    assert answer.status_code == 503
    assert due - time.time() <= int(answer.headers["Retry-After"]) <= due - before + 2
    assert row_of(run).status == "pending"


def test_a_huge_body_is_not_read(client: FlaskClient) -> None:
    body = b'{"run": "' + b"x" * 20_000
    answer = deliver(client, body, signature(body))
    assert (answer.status_code, answer.content_type) == (413, "application/problem+json")


def test_without_keys_nobody_is_let_in(tmp_path: Path, redis_url: str) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", redis_url, BACKEND_URL=ORIGIN)
    client = build(load(environ)).test_client()
    assert deliver(client, b"{}", signature(b"{}")).status_code == 401
    current().db.dispose()


def keyless(standin: QStashStandIn, tmp_path: Path, redis_url: str) -> FlaskClient:
    """The app as the migration guide sets it up: with the token, and no signing keys."""
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", redis_url)
    environ |= {"BACKEND_URL": ORIGIN, "QSTASH_URL": standin.url, "QSTASH_TOKEN": standin.token}
    fresh(environ).db.dispose()
    return build(load(environ)).test_client()


def test_without_keys_in_the_settings_qstash_is_asked_for_them(
    tmp_path: Path, redis_url: str
) -> None:
    with QStashStandIn("t" * 40, CURRENT_KEY) as standin:
        client = keyless(standin, tmp_path, redis_url)
        assert deliver(client, b"{}", signature(b"{}", OTHER_KEY)).status_code == 401
        assert deliver(client, b"{}", signature(b"{}")).status_code == 489
    current().db.dispose()


def test_keys_that_were_rotated_are_asked_for_once_a_minute() -> None:
    now = [1000.0]
    with QStashStandIn("t" * 40, CURRENT_KEY) as standin:
        settings = load({"QSTASH_URL": standin.url, "QSTASH_TOKEN": standin.token})
        keys = SigningKeys(settings, lambda: now[0])
        old, new = [CURRENT_KEY] * 2, [OTHER_KEY] * 2
        assert list(keys) == old
        standin.signing_key = OTHER_KEY
        assert list(keys) == old
        now[0] += ANEW_SECONDS
        assert list(keys) == old + new
        assert list(keys) == new


def test_a_key_that_qstash_leaves_empty_opens_nothing() -> None:
    with QStashStandIn("t" * 40, CURRENT_KEY) as standin:
        settings = load({"QSTASH_URL": standin.url, "QSTASH_TOKEN": standin.token})
        standin.signing_key = ""
        keys = SigningKeys(settings)
        assert _claims(signature(b"{}"), URL, keys) == {}


def test_where_qstash_does_not_say_its_keys_it_is_to_come_again(
    tmp_path: Path, redis_url: str
) -> None:
    with QStashStandIn("t" * 40, CURRENT_KEY) as standin:
        client = keyless(standin, tmp_path, redis_url)
    assert deliver(client, b"{}", signature(b"{}")).status_code == 503
    assert deliver(client, b"{}", signature(b"{}")).status_code == 503
    current().db.dispose()

"""Runs on QStash: what it loses, doubles, gives up or never answered is resent."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from qstash import QStash
from werkzeug.wrappers import Request, Response

from app.platform.config import load
from app.platform.wiring import make_runtime
from app.switchyard.errors import BackendUnavailable, SettingsError
from app.switchyard.runs.backend import Message
from app.switchyard.runs.handoff import hand_over
from tests.support.forks import in_a_fork
from tests.support.serving import serve_in_thread
from tests.support.sides import (
    Side,
    environment,
    no_worker,
    qstash_environment,
    qstash_side,
    relaying,
)
from tests.support.standins import QStashStandIn
from tests.support.waiting import PATIENCE_SECONDS
from workflows import qstash, service
from workflows.qstash import FAILED, FURTHEST, QStashBackend, find, unix


@pytest.fixture
def alone(tmp_path: Path, redis_url: str) -> Iterator[Side]:
    """No relay: what goes on, goes on by itself."""
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url)
    with qstash_side(environ, relay=False) as made:
        yield made


@pytest.fixture
def on(tmp_path: Path, redis_url: str) -> Iterator[Side]:
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url)
    with qstash_side(environ) as made:
        yield made


def standin(on: Side) -> QStashStandIn:
    assert on.qstash is not None
    return on.qstash


def waiting(on: Side) -> list[dict[str, Any]]:
    return [json.loads(base64.b64decode(d["body64"])) for d in standin(on).store.kept()]


def test_no_relay_is_needed_to_go_on(alone: Side) -> None:
    n = uuid4().hex
    runs = [
        alone.dispatch("five-steps", {"name": f"{n}/f", "failAt": 2, "failures": 1}),
        alone.dispatch("sleeper", {"name": f"{n}/s", "waitSeconds": 0.5}),
        alone.dispatch("parent", {"name": f"{n}/p", "children": 2}),
        alone.dispatch("child", {"name": f"{n}/late"}, delay=0.5),
    ]
    assert {row.status for row in alone.finish(*runs)} == {"succeeded"}
    assert set(alone.marks(n).values()) == {1}
    assert len(alone.marks(n)) == 5 + 2 + 3 + 1


def test_for_want_of_a_slot_it_is_resent(alone: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    n = uuid4().hex
    items = [{"name": f"{n}/{i}", "waitSeconds": 0.4} for i in range(4)]
    # Without flow control at QStash, as when RQ's side has the slots.
    backend = alone.runtime.store.backends["qstash"]
    assert isinstance(backend, QStashBackend)
    plain = backend._request

    def without_flow_control(message: Message) -> Any:
        return {name: said for name, said in plain(message).items() if name != "flow_control"}

    monkeypatch.setattr(backend, "_request", without_flow_control)
    rows = alone.finish(*alone.dispatch_many("capped", items))
    assert {row.status for row in rows} == {"succeeded"}
    assert standin(alone).store.kept(dead=True) == []


def test_the_cap_is_sent_to_qstash(alone: Side) -> None:
    alone.dispatch("capped", {"name": uuid4().hex}, delay=60)
    alone.dispatch("child", {"name": uuid4().hex}, delay=60)
    there = {d["label"]: d for d in standin(alone).store.kept()}
    assert set(there) == {"switchyard"}
    flows = {d.get("flowControlKey"): d.get("parallelism") for d in standin(alone).store.kept()}
    assert flows == {"switchyard-capped": 2, None: None}


@pytest.mark.parametrize("fault", ["unknown_outcome", "drop", "refuse"])
def test_an_unknown_outcome_is_resent_and_done_once(alone: Side, fault: str) -> None:
    n = uuid4().hex
    standin(alone).fault(**{fault: 1})
    run = alone.dispatch("child", {"name": n}, delay=2)
    assert alone.row(run.id).sent_ref is None
    standin(alone).fault()
    alone.runtime.store.backends["qstash"]._paused_until = 0.0  # type: ignore[attr-defined]
    alone.runtime.store.send([run.id])
    assert len(waiting(alone)) == 1
    with relaying(alone.runtime):
        (row,) = alone.finish(run)
    assert (row.status, alone.marks(n)) == ("succeeded", {n: 1})


def test_a_failure_callback_resends_once(alone: Side) -> None:
    run = alone.dispatch("child", {"name": uuid4().hex}, delay=60)
    ref, body = alone.row(run.id).sent_ref, waiting(alone)[0]
    callback = {
        "status": 500,
        "sourceMessageId": ref,
        "sourceBody": base64.b64encode(json.dumps(body).encode()).decode(),
        "retried": 3,
        "dlqId": "1-0",
    }
    raw = json.dumps(callback).encode()
    url = alone.environ["BACKEND_URL"] + FAILED
    token = standin(alone).sign(url, raw)

    def call(token: str) -> requests.Response:
        return requests.post(
            url, raw, headers={"Upstash-Signature": token}, timeout=PATIENCE_SECONDS
        )

    assert call(token + "x").status_code == 401
    assert call(standin(alone).sign(alone.environ["BACKEND_URL"], raw)).status_code == 401
    assert call(token).json() == {"end": "sent again"}
    row = alone.row(run.id)
    assert (row.sends, row.sent_ref != ref, row.status) == (1, True, "pending")
    assert "the last answer was 500" in row.error
    assert call(token).json() == {"end": "nothing to do"}
    assert alone.row(run.id) == row
    assert len(waiting(alone)) == 2


def test_what_is_no_callback_is_never_tried_again(alone: Side) -> None:
    url = alone.environ["BACKEND_URL"] + FAILED
    for body in (b"{}", b"[]", b"x", b'{"sourceBody": "e30="}'):
        headers = {"Upstash-Signature": standin(alone).sign(url, body)}
        answer = requests.post(url, body, headers=headers, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 489, body


def test_taken_back_where_it_goes_elsewhere(alone: Side) -> None:
    stays, gone = (alone.dispatch("child", {"name": uuid4().hex}, delay=60) for _ in range(2))
    store = alone.runtime.store
    sent = store.messages([alone.row(gone.id)])
    for _ in range(2):
        store.backends["qstash"].cancel(sent)
    assert [body["run"] for body in waiting(alone)] == [stays.id]


def test_far_ahead_it_goes_in_two(alone: Side) -> None:
    now = datetime.now(UTC)
    run = alone.dispatch("child", {"name": uuid4().hex}, at=now + timedelta(days=30))
    (body,) = waiting(alone)
    assert now + FURTHEST - timedelta(hours=1) <= datetime.fromtimestamp(body["at"], UTC)
    assert body["at"] <= unix(now + FURTHEST)
    # It comes, and the run is not due for long: resent, not given back to be tried again.
    raw = json.dumps(body).encode()
    url = standin(alone).store.kept()[0]["url"]
    headers = {"Upstash-Signature": standin(alone).sign(url, raw)}
    answer = requests.post(url, raw, headers=headers, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()) == (200, {"end": "not_due"})
    assert alone.row(run.id).status == "pending"


def test_after_a_fork_there_is_a_client_of_its_own(alone: Side) -> None:
    backend = alone.runtime.store.backends["qstash"]
    assert isinstance(backend, QStashBackend)
    client = backend.client()
    assert backend.client() is client
    assert in_a_fork(lambda: backend.client() is client) == "False"


@pytest.mark.parametrize(
    ("more", "says"),
    [({}, "QSTASH_TOKEN is not set"), ({"QSTASH_TOKEN": "t"}, "BACKEND_URL is not set")],
)
def test_not_configured_it_is_unavailable_and_nothing_is_lost(
    tmp_path: Path, redis_url: str, more: dict[str, str], says: str
) -> None:
    with no_worker(redis_url, tmp_path, **more) as side:
        side.backend, store = "qstash", side.runtime.store
        run = side.dispatch("child", {"name": "x"})
        assert side.row(run.id).status == "pending"
        backend = store.backends["qstash"]
        backend._paused_until = 0.0  # type: ignore[attr-defined]
        unsent = store.messages([side.row(run.id)])
        with pytest.raises(BackendUnavailable, match=says):
            backend.send(unsent)
        backend.cancel(unsent)  # it was never sent, so nobody is asked
        assert hand_over(store, [run.id], "rq").moved == 1


def test_what_was_sent_before_a_limit_was_met_is_noted(
    alone: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first of them are resent each day, and the last ones never."""
    monkeypatch.setattr(qstash, "_BATCH", 1)
    left = [1]

    @Request.application
    def limited(request: Request) -> Response:
        if not left:
            return Response("{}", 429, {"RateLimit-Limit": "1"})
        left.pop()
        return Response('[{"messageId": "msg_1"}]', content_type="application/json")

    with serve_in_thread(limited) as url:
        backend = QStashBackend(load({**alone.environ, "QSTASH_URL": url}))
        now = datetime.now(UTC)
        spec = alone.runtime.catalogue["child"]
        messages = [Message(n, spec, "qstash", "{}", 1, 0, now) for n in ("a", "b")]
        assert backend.send(messages) == {"a": "msg_1"}
        with pytest.raises(BackendUnavailable, match="a moment ago"):
            backend.send(messages[1:])
        monkeypatch.setattr(service, "PAUSE_SECONDS", 0.0)
        backend._paused_until = 0.0
        with pytest.raises(BackendUnavailable, match="Exceeded daily message limit"):
            backend.send(messages[1:])


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found"])
def test_an_id_that_qstash_cannot_read_is_one_it_has_not(status: str) -> None:
    with serve_in_thread(Response('{"error": "no such id"}', status)) as url:
        assert find(QStash("t", retry=False, base_url=url), "msg_none") is None


@pytest.mark.parametrize("lacking", ["QSTASH_TOKEN", "BACKEND_URL"])
def test_the_start_is_refused_where_mail_would_wait_for_nobody(
    tmp_path: Path, redis_url: str, lacking: str
) -> None:
    environ = environment(
        f"sqlite:///{tmp_path / 'test.db'}",
        redis_url,
        **qstash_environment("https://qstash.example", "https://app.example"),
        QSTASH_TOKEN="t" * 40,
        USE_INNGEST="true",
        INNGEST_EVENT_KEY="k",
        INNGEST_SIGNING_KEY="signkey-test-" + "00ff" * 16,
        SWITCHYARD_JOBS="app.platform.mail.jobs",
    )
    make_runtime(load(environ)).db.dispose()
    del environ[lacking]
    with pytest.raises(SettingsError, match=f"goes to QStash, but {lacking} is not set"):
        make_runtime(load(environ))
    make_runtime(load({**environ, "USE_INNGEST": "false"})).db.dispose()

"""Calls that Inngest signs: what is refused, at what cost, and what is not."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from app.switchyard import runtime
from app.switchyard.cutover.status import sync_refusal
from app.switchyard.runs.backend import End, Outcome
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.models import RunRow
from tests.support.sides import Fixed, app_on, decide_by, environment
from workflows.client import CANCELLED

KEY, OLD_KEY = "0123456789abcdef" * 4, "fedcba9876543210" * 4
PATH = "/api/inngest?fnId=switchyard-child&stepId=step"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[FlaskClient]:
    environ = environment(
        f"sqlite:///{tmp_path_factory.mktemp('signed') / 'test.db'}",
        redis_url,
        INNGEST_EVENT_KEY="event-key",
        INNGEST_SIGNING_KEY=f"signkey-test-{KEY}",
        INNGEST_SIGNING_KEY_FALLBACK=f"signkey-test-{OLD_KEY}",
        INNGEST_BASE_URL="http://127.0.0.1:1",
    )
    with app_on(environ) as app:
        decide_by(Fixed("rq"))
        yield app.test_client()


def mac(body: bytes, at: int, key: str = KEY) -> str:
    return hmac.new(key.encode(), body + str(at).encode(), hashlib.sha256).hexdigest()


def a_call(event: str = "test.child", data: Any = None) -> bytes:
    """The first call of a function for an event, as Inngest sends it: in canonical JSON."""
    ctx = {"attempt": 0, "run_id": "R", "stack": {"current": 0, "stack": []}, "use_api": False}
    call = {
        "ctx": {**ctx, "disable_immediate_execution": False, "max_attempts": 5},
        "event": {"data": {"name": "x"} if data is None else data, "id": "e", "name": event},
        "events": [],
        "steps": {},
        "use_api": False,
        "version": -1,
    }
    call["event"]["ts"] = 1  # type: ignore[index]
    return json.dumps(call, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def post(client: FlaskClient, body: bytes, signature: str | None = None, path: str = PATH) -> Any:
    """The answer to a call, signed now unless it is signed otherwise."""
    signed = now_signed(body) if signature is None else signature
    return client.post(path, data=body, headers={"x-inngest-signature": signed})


def now_signed(body: bytes, key: str = KEY) -> str:
    at = int(time.time())
    return f"t={at}&s={mac(body, at, key)}"


def runs() -> int:
    return int(runtime.current().db.value(select(func.count()).select_from(RunRow)))


FALSE = "0" * 64
SIZES = [2_000_000, 4_000_000, 7_900_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_false_signature_is_refused_before_anything_is_parsed(
    client: FlaskClient, size: int
) -> None:
    """S1: each part of this well-formed JSON would be an object in memory."""
    body = b"[" + b'{"a":1},' * (size // 8) + b"1]"

    def refused() -> float:
        begun = time.process_time()
        answer = post(client, body, f"t={int(time.time())}&s={FALSE}")
        assert answer.status_code in (401, 413)
        assert answer.content_type == "application/problem+json"
        return time.process_time() - begun

    assert min(refused() for _ in range(3)) < 0.1
    tracemalloc.start()
    try:
        refused()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_has_no_canonical_form_is_refused_alike(client: FlaskClient) -> None:
    """Nobody need know a key to send these."""
    for body in (
        *(b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b"1e999", b"NaN", b"[" * 2000, b"\xff"),
        *(rb'{"\ud800":1,"b":2}', rb'"\udfff"', '{"a":1}'.encode("utf-16"), b""),
    ):
        assert post(client, body, f"t={int(time.time())}&s={FALSE}").status_code == 401, body


def test_what_is_signed_is_bounded_as_well(client: FlaskClient) -> None:
    big = a_call(data={"name": "x" * (4 * 1024 * 1024)})
    assert post(client, big).status_code == 413


def test_there_is_one_time_and_one_signature_and_nothing_else(client: FlaskClient) -> None:
    body, now = a_call(), int(time.time())
    old = now - 400
    good, stale = mac(body, now), mac(body, old)
    for header in (
        f"t={old}&s={stale}&t={now}",
        f"t={now}&t={old}&s={stale}",
        f"t={old}&s={stale}",
        f"t={now + 400}&s={mac(body, now + 400)}",
        f"t={now}&s={good}&s={stale}",
        f"t={now}&s={good}&x=1",
        f"s={good}&t={now}",
        f"t={now};s={good}",
        f"t={now}&s={good}, t={now}&s={good}",
        f" t={now}&s={good[:-1]}",
        f"t=0{now}&s={good}",
        f"t=+{now}&s={good}",
        f"t={now}&s=é{good[1:]}",
        f"t=١&s={good}".encode().decode("latin-1"),
        "é",
        "",
    ):
        answer = post(client, body, header)
        assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert client.post(PATH, data=body).status_code == 401
    twice = [("x-inngest-signature", f"t={now}&s={good}")] * 2
    assert client.post(PATH, data=body, headers=twice).status_code == 401
    assert post(client, body, f"t={now}&s={good}").status_code == 200
    assert post(client, body, f"t={now}&s={mac(body, now, OLD_KEY)}").status_code == 200


def test_a_syncs_body_is_signed_in_its_canonical_form(client: FlaskClient) -> None:
    """Inngest's server writes `&` as Go does, and signs what RFC 8785 makes of it. The answer
    itself holds every function, with the URL that was sent."""
    at = int(time.time())
    sent = rb'{"url":"https://shop.example/api/inngest?a=1\u0026b=2"}'
    signed = sent.replace(rb"\u0026", b"&")
    headers = {
        "x-inngest-signature": f"t={at}&s={mac(signed, at)}",
        "x-inngest-server-kind": "cloud",
        "x-inngest-sync-kind": "in_band",
    }
    answer: Any = client.put("/api/inngest", data=sent, headers=headers)
    assert (answer.status_code, answer.headers["x-inngest-sync-kind"]) == (200, "in_band")
    known = {f["id"]: f["steps"]["step"]["runtime"]["url"] for f in answer.json["functions"]}
    assert known == {
        f"switchyard-{name}": f"https://shop.example/api/inngest?fnId=switchyard-{name}&stepId=step"
        for name in (CANCELLED, *runtime.current().catalogue)
    }
    assert client.put("/api/inngest", data=sent[:-2] + b'3"}', headers=headers).status_code == 401


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
def test_what_is_signed_as_it_was_sent_need_not_be_canonical(client: FlaskClient, key: str) -> None:
    """Inngest's specification signs the body's bytes; the SDK knows the canonical form alone."""
    made = json.loads(a_call(data={"name": "\u00e9", "children": 10**30}))
    made["event"]["id"] = f"sent with {key}"
    call = json.dumps(made).encode()
    sync = b'{ "url": "https://shop.example/api/inngest" }'
    for method, path, body in (("POST", PATH, call), ("PUT", "/api/inngest", sync)):
        headers = {"x-inngest-signature": now_signed(body, key)}
        headers["x-inngest-sync-kind"] = "in_band"
        answer = client.open(path, method=method, data=body, headers=headers)
        assert answer.status_code == 200, answer.text
        signed = re.fullmatch("t=([0-9]+)&s=(.+)", answer.headers["x-inngest-signature"])
        assert signed is not None
        assert signed[2] == mac(answer.data, int(signed[1]), key)


@pytest.mark.parametrize("body", [b"x", b'{"url":NaN}', rb'{"url":"\ud800"}', b"[" * 2000])
def test_what_is_signed_and_not_json_is_the_callers_fault(client: FlaskClient, body: bytes) -> None:
    headers = {"x-inngest-signature": now_signed(body)}
    for method, path in (("POST", PATH), ("PUT", "/api/inngest")):
        answer = client.open(path, method=method, data=body, headers=headers)
        assert (answer.status_code, answer.content_type) == (422, "application/problem+json")


def test_a_sync_that_cannot_be_read_is_not_one_that_inngest_refused(client: FlaskClient) -> None:
    for body in (b"{}", b'{"url":3}', b"[]"):
        headers = {"x-inngest-signature": now_signed(body)}
        headers["x-inngest-sync-kind"] = "in_band"
        assert client.put("/api/inngest", data=body, headers=headers).status_code == 400
    assert sync_refusal(runtime.current()) is None


def test_a_state_that_inngest_does_not_hand_out_is_no_failed_sync(client: FlaskClient) -> None:
    call = a_call().replace(b'"use_api":false', b'"use_api":true')
    answer = post(client, call)
    assert (answer.status_code, answer.json["title"]) == (503, "Backend unavailable")
    assert "synced" not in answer.json["detail"]


@pytest.mark.parametrize("error", ["Failed request to the bank: 403", "unsupported probe: x"])
def test_a_run_that_failed_has_failed_whatever_its_error_says(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Called again, its function would end well."""
    failed = Outcome(End.FAILED, error=error)
    monkeypatch.setattr(Engine, "perform", lambda *_: failed)
    body = a_call(data={"_switchyard": {"run": "0" * 26, "epoch": 1}})
    answer = post(client, body)
    assert (answer.status_code, answer.headers.get("x-inngest-no-retry")) == (500, "true")
    assert answer.json["message"] == error


OTHERS = {
    "another job's event": ("test.noop", {"name": "x"}),
    "a cron, of a job that has none": ("inngest/scheduled.timer", {"cron": "TZ=UTC 0 2 * * *"}),
    "an event, which cancels nothing": (
        "test.child",
        {"run_id": "R", "event": {"data": {"_switchyard": {"run": "0" * 26, "epoch": 1}}}},
    ),
    "a call of another function by hand": (
        "inngest/function.invoked",
        {"name": "x", "_inngest": {"fn_id": "switchyard-noop"}},
    ),
}


@pytest.mark.parametrize("which", OTHERS)
def test_what_was_signed_for_one_function_starts_no_other(client: FlaskClient, which: str) -> None:
    """The function is named in the address, which is not signed."""
    body = a_call(*OTHERS[which])
    function = CANCELLED if "cancels" in which else "child"
    path = PATH.replace("child", function)
    before = runs()
    answer = post(client, body, path=path)
    assert (answer.status_code, answer.headers.get("x-inngest-no-retry")) == (500, "true")
    assert re.search(f"the event does not belong to (job )?{function}", answer.text)
    assert runs() == before


NOTHING_OF_OURS: dict[str, tuple[str, str, int]] = {
    "a function that is unknown": ("POST", "?fnId=switchyard-gone&stepId=step", 404),
    "a function without its app": ("POST", "?fnId=child&stepId=step", 404),
    "no function": ("POST", "", 400),
    "a step of its own": ("POST", "?fnId=switchyard-child&stepId=0123", 400),
    "two steps": ("POST", "?fnId=switchyard-child&stepId=step&stepId=0123", 400),
    "an odd probe": ("POST", "?fnId=switchyard-child&probe=x", 400),
    "a HEAD": ("HEAD", "", 200),
}


@pytest.mark.parametrize("which", NOTHING_OF_OURS)
def test_what_calls_nothing_of_ours_is_the_callers_fault(client: FlaskClient, which: str) -> None:
    """The address is not signed: anybody who saw a call can send it elsewhere for five minutes."""
    method, query, status = NOTHING_OF_OURS[which]
    body, at = a_call(), int(time.time())
    headers = {"x-inngest-signature": f"t={at}&s={mac(body, at)}"}
    answer = client.open(f"/api/inngest{query}", method=method, data=body, headers=headers)
    assert answer.status_code == status, answer.text


def test_a_call_without_its_events_is_the_callers_fault(client: FlaskClient) -> None:
    body, at = a_call().replace(b'"events":[]', b'"events":null'), int(time.time())
    assert post(client, body, f"t={at}&s={mac(body, at)}").status_code == 400


EPOCHS: list[Any] = [2**70, -1, True, 1.5, None]
RUNS: list[Any] = ["a\0", "a" * 33, "\u0661", 3, []]


@pytest.mark.parametrize(
    "mark",
    [
        *({"run": "0" * 26, "epoch": epoch} for epoch in EPOCHS),
        *({"run": run, "epoch": 1} for run in RUNS),
        *({}, [], "x"),
    ],
)
def test_what_names_no_run_is_not_tried_again(client: FlaskClient, mark: Any) -> None:
    """Anybody who may send an event can send such a mark, and have its function cancelled."""
    cancelled = {"run_id": "R", "event": {"data": {"_switchyard": mark}}}
    body = a_call("inngest/function.cancelled", cancelled)
    path = PATH.replace("child", CANCELLED)
    answer = post(client, body, path=path)
    assert (answer.status_code, answer.json) == (200, {"cancelled": False})
    body = a_call(data={"_switchyard": mark})
    answer = post(client, body)
    assert (answer.status_code, answer.headers["x-inngest-no-retry"]) == (500, "true")


def test_a_run_is_named_by_text_that_can_be_kept(client: FlaskClient) -> None:
    """Inngest's own ids are 26 characters (R12)."""
    for odd in ("r" * 99, "a\0", ""):
        body = json.loads(a_call(data={"_switchyard": {"run": "0" * 26, "epoch": 1}}))
        body["ctx"]["run_id"] = odd
        sent = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
        answer = post(client, sent)
        assert answer.headers.get("x-inngest-no-retry") == "true", answer.text

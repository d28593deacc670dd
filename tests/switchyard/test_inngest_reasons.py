"""What is wrong at Inngest is named, with what to do, wherever it is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.platform.config import load
from app.switchyard import extras
from app.switchyard.commands.checks import CHECKS, checked
from app.switchyard.cutover.status import unreachable
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import load as load_jobs
from app.switchyard.runs.backend import Message, Refused
from app.switchyard.runtime import Runtime
from tests.support import wire
from tests.support.serving import serve_in_thread
from tests.support.sides import build, environment, fresh
from tests.support.standins import InngestStandIn
from workflows.backend import MOST_REFUSED, InngestBackend, _event
from workflows.client import functions_there, make_client, note_sync, send_harmless

EVENT, SIGNING = "right-event-key", "abcd" * 8
WRONG = {"event": "wrong-event-key", "signing": "ef01" * 8, "url": "http://127.0.0.1:1"}
ASKED = ("send", "verify", "cancel", "ping", "functions")
NOW = datetime.now(UTC)
CHILD = load_jobs("tests.support.jobs")["child"]


@pytest.fixture(scope="module")
def server() -> Iterator[InngestStandIn]:
    with InngestStandIn((), EVENT, SIGNING) as standin:
        yield standin


def settings(
    folder: Path, url: str, event: str = EVENT, signing: str = SIGNING, **more: str
) -> Any:
    return load(
        environment(
            f"sqlite:///{folder}/t.db",
            "redis://127.0.0.1:1",
            INNGEST_BASE_URL=url,
            INNGEST_EVENT_KEY=event,
            INNGEST_SIGNING_KEY=f"signkey-prod-{signing}",
            ADMIN_TOKEN="0123456789abcdef",
            **more,
        )
    )


def asks(made: Any) -> dict[str, Callable[[], object]]:
    backend = InngestBackend(made)
    message = Message("r", CHILD, "inngest", "{}", 1, 0, NOW, "01A")
    return {
        "send": lambda: backend.send([message]),
        "verify": lambda: send_harmless(made),
        "cancel": lambda: backend.cancel([message, replace(message, ref=None)]),
        "ping": backend.ping,
        "functions": lambda: functions_there(made),
    }


@pytest.mark.parametrize("what", ["send", "verify", "ping"])
def test_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A drain in such a process would else end with an error."""
    monkeypatch.setitem(sys.modules, "inngest", None)
    monkeypatch.setattr(extras, "missing", lambda _extra: "the package inngest is not installed")
    with pytest.raises(BackendUnavailable, match="is not installed"):
        asks(settings(tmp_path, WRONG["url"]))[what]()


REASONS = {
    "event": (("send", "verify"), "refuses INNGEST_EVENT_KEY; set INNGEST_EVENT_KEY"),
    "signing": (("cancel", "ping", "functions"), "refuses INNGEST_SIGNING_KEY; set INNGEST_SIGN"),
    "url": (ASKED, r"127\.0\.0\.1:1 cannot.*INNGEST_BASE_URL is ri"),
}


@pytest.mark.parametrize(
    ("wrong", "what"), [(wrong, what) for wrong, (asked, _) in REASONS.items() for what in asked]
)
def test_a_setting_that_is_wrong_is_named(
    server: InngestStandIn, tmp_path: Path, wrong: str, what: str
) -> None:
    given = {"url": server.url, wrong: WRONG[wrong]}
    with pytest.raises(BackendUnavailable, match=REASONS[wrong][1]):
        asks(settings(tmp_path, **given))[what]()


@pytest.mark.parametrize("what", ["cancel", "ping", "functions"])
def test_a_new_signing_key_that_inngest_does_not_know_yet(
    server: InngestStandIn, tmp_path: Path, what: str
) -> None:
    """While a key is replaced the app has both, and Inngest still has the old one."""
    both = {"INNGEST_SIGNING_KEY_FALLBACK": f"signkey-prod-{SIGNING}"}
    asks(settings(tmp_path, server.url, signing=WRONG["signing"], **both))[what]()


@pytest.mark.parametrize("which", ["_signing_key_fallback", "_http_client._signing_key_fallback"])
def test_the_sdk_has_no_key_that_the_settings_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", "unchecked")
    client = make_client(settings(tmp_path, WRONG["url"]))
    assert attrgetter(which)(client) is None


def test_an_event_that_it_refuses_holds_up_no_other(server: InngestStandIn, tmp_path: Path) -> None:
    """A reserved name is one that it refuses."""
    backend = InngestBackend(settings(tmp_path, server.url))
    bad = replace(CHILD, event="inngest/x")
    messages = [
        Message(f"r{n}", bad if n in (0, 3, 4, 7) else CHILD, "inngest", "{}", 1, 0, NOW)
        for n in range(8)
    ]

    answers = backend.send(messages)
    refused = {run for run, answer in answers.items() if isinstance(answer, Refused)}
    assert (refused, len(answers)) == ({"r0", "r3", "r4", "r7"}, 8)
    assert answers["r0"].startswith("inngest: it refuses an event: event name is reserved")
    many = [Message(f"m{n}", bad, "inngest", "{}", 1, 0, NOW) for n in range(50)]
    assert len(backend.send(many)) == MOST_REFUSED
    assert len(backend.send(messages[1:2])) == 1  # it is not taken for one that is unreachable


@pytest.mark.parametrize(("depth", "is_shown"), [(90, True), (220, False), (300, False)])
def test_a_payload_that_is_too_deep_stays_in_the_ledger(
    server: InngestStandIn, tmp_path: Path, depth: int, is_shown: bool
) -> None:
    """The SDK cannot send it, or cannot read the call with it: no job with it would ever run."""
    payload = f'{{"name":"[","x":{"[" * depth}{"]" * depth}}}'
    deep = Message(f"d{depth}", CHILD, "inngest", payload, 1, 0, NOW)
    other = Message(f"o{depth}", CHILD, "inngest", '{"name":"n"}', 1, 0, NOW)
    sent = InngestBackend(settings(tmp_path, server.url)).send([deep, other])
    assert list(sent) == [deep.run_id, other.run_id]
    assert ("x" in _event(deep).data) == is_shown


def answering(status: int, said: str) -> AbstractContextManager[str]:
    """A server that says the same to whatever it is asked."""
    other = Flask("other")
    other.route("/<path:_path>", methods=["GET", "POST"])(lambda _path: (said, status))
    return serve_in_thread(other)


WHY = "Event keys are required to process events securely"
IN_TROUBLE = json.dumps({"error": WHY, "status": 503})
"""As one of your own says that was started without keys."""
NO_STATES = ("[]", '"no"', "{", '{"data": [1]}', '{"data": {"a": 1}}', '{"data": 3}')
"""Of a run that is to be cancelled: any other error would end who hands a run over."""
OTHERS = [(200, "<p>"), (200, "{}"), (200, '{"ids": []}'), (302, "{}"), (404, "{}")]
IS_NOT = "is not Inngest: .*see that INNGEST_BASE_URL names"


ANSWERS = [
    *((what, 503, IN_TROUBLE, f"503: {WHY}") for what in ("send", "verify")),
    *((what, *one, IS_NOT) for one in OTHERS for what in ("send", "verify", "functions")),
    *(("cancel", 200, said, "not its own") for said in NO_STATES),
]


@pytest.mark.parametrize(
    ("what", "status", "said", "says"),
    ANSWERS,
    ids=[f"{what}-{status}-{said[:15]}" for what, status, said, _ in ANSWERS],
)
def test_an_answer_that_is_none_of_inngests_says_so(
    tmp_path: Path, what: str, status: int, said: str, says: str
) -> None:
    with answering(status, said) as url, pytest.raises(BackendUnavailable, match=says):
        asks(settings(tmp_path, url))[what]()


def test_one_sending_waits_for_one_answer(tmp_path: Path) -> None:
    """The SDK itself would send five times and wait each time, with dispatch() and the relay."""
    with wire.answering(None) as (url, came):
        with pytest.raises(BackendUnavailable, match="it does not answer"):
            asks(settings(tmp_path, url))["send"]()
        assert len(came) == 1


def test_what_is_quickly_refused_is_quickly_tried_again(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 503 Away\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with wire.answering(answer) as (url, came):
        with pytest.raises(BackendUnavailable):
            asks(settings(tmp_path, url))["send"]()
        assert len(came) > 1


@pytest.fixture
def runtime(server: InngestStandIn, redis_url: str, tmp_path: Path) -> Iterator[Runtime]:
    environ = environment(f"sqlite:///{tmp_path}/t.db", redis_url, INNGEST_DEV=server.url)
    runtime = fresh(environ)
    runtime.cache.delete("inngest-sync-refused")
    yield runtime
    runtime.cache.delete("inngest-sync-refused")
    runtime.db.dispose()


def seen(runtime: Runtime) -> tuple[str, str]:
    """The check of `verify`, and what console and status say."""
    (check,) = [check for check in CHECKS if check.name == "inngest-functions"]
    (answer,) = checked(runtime, [check])
    status: dict[str, Any] = {"jobs": []}
    return answer["detail"], unreachable(runtime, status).get("inngest", "")


def test_a_refused_sync_names_its_job_wherever_it_is_shown(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    refused = {"error": 'switchyard-keyed: invalid cron "0 9 * * 7"', "status": 400}
    note_sync(runtime, refused)
    record = caplog.records[-1]
    assert (record.levelname, record.jobs) == ("ERROR", ["keyed"])  # type: ignore[attr-defined]
    for text in seen(runtime):
        assert "its last sync was refused" in text
        assert "(job keyed)" in text
    no_syncs: list[Any] = [{}, {"title": "Unauthorized"}, {"message": "Unauthorized"}]
    for no_sync in no_syncs:
        note_sync(runtime, no_sync)
        assert "refused" in seen(runtime)[0]
    note_sync(runtime, {"ok": True, "modified": True})
    assert "refused" not in "".join(seen(runtime))


def test_a_sync_with_a_wrong_signing_key_names_the_key(runtime: Runtime) -> None:
    note_sync(runtime, {"error": "Unauthorized", "status": 401})
    assert all("refuses INNGEST_SIGNING_KEY; set" in text for text in seen(runtime))


def test_what_verify_says_to_do_is_of_what_is_wrong(server: InngestStandIn, tmp_path: Path) -> None:
    wrong = settings(tmp_path, server.url, signing=WRONG["signing"])
    app = build(wrong)
    runtime = app.extensions["switchyard"]
    (check,) = [check for check in CHECKS if check.name == "inngest-functions"]
    (answer,) = checked(runtime, [check])
    assert answer["fix"].startswith("set INNGEST_SIGNING_KEY")
    runtime.db.dispose()

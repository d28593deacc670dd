"""An Inngest that takes connections and does not answer, or answers what is none of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.platform.config import load
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import load as load_jobs
from app.switchyard.runs.backend import Message
from tests.support.sides import environment
from tests.support.wire import answering
from workflows.backend import InngestBackend


def backend(url: str, folder: Path) -> InngestBackend:
    env = environment(f"sqlite:///{folder}/t.db", "redis://127.0.0.1:1", INNGEST_DEV=url)
    return InngestBackend(load(env))


def message(ref: str | None = None) -> Message:
    spec = load_jobs("tests.support.jobs")["child"]
    return Message("r", spec, "inngest", "{}", 1, 0, datetime.now(UTC), ref)


def test_one_sending_waits_for_one_answer(tmp_path: Path) -> None:
    """The SDK itself would send five times and wait each time, with dispatch() and the relay."""
    with answering(None) as (url, came):
        with pytest.raises(BackendUnavailable, match="it does not answer"):
            backend(url, tmp_path).send([message()])
        assert len(came) == 1


def test_what_is_quickly_refused_is_quickly_tried_again(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 503 Away\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with answering(answer) as (url, came):
        with pytest.raises(BackendUnavailable):
            backend(url, tmp_path).send([message()])
        assert len(came) > 1


@pytest.mark.parametrize(
    "body", [b"[]", b'"no"', b"{", b'{"data": [1]}', b'{"data": {"a": 1}}', b'{"data": 3}']
)
def test_an_answer_that_is_none_is_no_answer(body: bytes, tmp_path: Path) -> None:
    """Anything else that it raised would end who hands a run over."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with answering(head.encode() + body) as (url, _), pytest.raises(BackendUnavailable):
        backend(url, tmp_path).cancel([message("event")])

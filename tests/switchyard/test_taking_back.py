"""What a backend was sent and can take back is gone from it; what it cannot is left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.local.inngest.ids import ulid
from app.local.inngest.server import UNLISTED_SECONDS
from app.platform.config import load
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import load as load_jobs
from app.switchyard.runs.backend import Backend, Message
from app.switchyard.runs.memory import MemoryBackend
from queues.backend import RQBackend, connect
from tests.support.serving import serve_in_thread
from tests.support.sides import build, environment, free_port
from tests.support.standins import InngestStandIn
from workflows.backend import InngestBackend, is_new


def message(run: str, epoch: int = 1, ref: str | None = None) -> Message:
    due = datetime.now(UTC) + timedelta(hours=1)
    spec = replace(load_jobs("tests.support.jobs")["child"], queue="back")
    return Message(run, spec, "x", '{"name": "n"}', epoch, 0, due, ref)


@pytest.mark.parametrize("kind", ["rq", "memory"])
def test_what_waits_in_a_list_is_taken_out(kind: str, redis_url: str) -> None:
    redis = connect(redis_url)
    redis.flushall()
    backend: Backend = RQBackend(redis_url) if kind == "rq" else MemoryBackend()
    sent = [message(run) for run in ("a", "b", "c")]
    backend.send(sent)
    # Not sent at this epoch, and never sent at all: nothing to take back, and no error.
    backend.cancel([message("a"), message("b", epoch=2), message("z")])
    assert backend.queued(sent) == {"b", "c"}
    if kind == "rq":
        assert set(redis.keys("rq:job:*")) == {b"rq:job:b-1", b"rq:job:c-1"}


def test_what_a_worker_has_popped_keeps_its_hash(redis_url: str) -> None:
    redis = connect(redis_url)
    redis.flushall()
    backend = RQBackend(redis_url)
    backend.send([message("a")])
    assert redis.lpop("rq:queue:back") == b"a-1"
    backend.cancel([message("a")])
    assert redis.exists("rq:job:a-1")


@pytest.fixture
def inngest(tmp_path: Path) -> Iterator[tuple[InngestStandIn, InngestBackend]]:
    port = free_port()
    with InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"]) as standin:
        url = f"sqlite:///{tmp_path}/test.db"
        settings = load(environment(url, "redis://127.0.0.1:1", INNGEST_DEV=standin.url))
        with serve_in_thread(build(settings), port):
            standin.sync()
            yield standin, InngestBackend(settings)


def test_an_inngest_run_is_cancelled(inngest: tuple[InngestStandIn, InngestBackend]) -> None:
    standin, backend = inngest
    first, second = message("a"), message("b")
    refs = backend.send([first, second])
    sent = [message(run, ref=ref) for run, ref in refs.items()]
    time.sleep(2 * UNLISTED_SECONDS)  # what is asked for earlier names no run, and is cached
    backend.cancel([sent[0], message("c", ref="01UNKNOWN"), message("d")])
    backend.cancel(sent[:1])
    sent_of = [(run["event"]["data"].get("_switchyard"), run["status"]) for run in standin.runs()]
    ended = {of["run"]: status for of, status in sent_of if of}  # a cron may have fired, too
    assert ended == {"a": "Cancelled", "b": "Running"}, json.dumps(standin.runs())


def test_only_what_was_just_sent_may_be_listed_later() -> None:
    """Else many that are cancelled at an Inngest that has lost them would each be waited for."""
    now = time.time()
    ages = {-2.0: True, 0.0: True, 2.0: True, 60.0: False, 1e6: False}
    assert {age: is_new(ulid(now - age)) for age in ages} == ages
    assert not any(map(is_new, ("", "01UNKNOWN", "r-1-0", "\u0661" * 26)))


def test_a_redis_that_is_unavailable_says_so() -> None:
    with pytest.raises(BackendUnavailable):
        RQBackend("redis://127.0.0.1:1").cancel([message("a", ref="01A")])

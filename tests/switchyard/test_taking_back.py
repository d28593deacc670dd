"""What a backend was sent and can take back is gone from it; what it cannot is left alone."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.local.inngest.ids import ulid
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import load as load_jobs
from app.switchyard.runs.backend import Backend, Message
from app.switchyard.runs.memory import MemoryBackend
from queues.backend import RQBackend, connect
from workflows.backend import is_new


def message(run: str, epoch: int = 1, ref: str | None = None) -> Message:
    due = datetime.now(UTC) + timedelta(hours=1)
    spec = replace(load_jobs("tests.support.jobs")["child"], queue="back")
    return Message(run, spec, "x", '{"name": "n"}', epoch, 0, due, ref)


@pytest.mark.parametrize("kind", ["rq", "memory"])
def test_what_waits_in_a_list_is_taken_out(kind: str, redis_url: str) -> None:
    redis = connect(redis_url)
    redis.flushall()
    backend: Backend = RQBackend(redis_url) if kind == "rq" else MemoryBackend()
    sent = [message(run) for run in ("popped", "a", "b", "c")]
    backend.send(sent)
    if kind == "rq":  # by a worker, which needs its hash
        assert redis.lpop("rq:queue:back") == b"popped-1"
    # Not sent at this epoch, and never sent at all: nothing to take back, and no error.
    backend.cancel([message("popped"), message("a"), message("b", epoch=2), message("z")])
    assert backend.queued(sent) == {"b", "c"}
    if kind == "rq":
        assert set(redis.keys("rq:job:*")) == {
            f"rq:job:{run}-1".encode() for run in ("popped", "b", "c")
        }


def test_only_what_was_just_sent_may_be_listed_later() -> None:
    """Else many that are cancelled at an Inngest that has lost them would each be waited for."""
    now = time.time()
    ages = {-2.0: True, 0.0: True, 2.0: True, 60.0: False, 1e6: False}
    assert {age: is_new(ulid(now - age)) for age in ages} == ages
    assert not any(map(is_new, ("", "01UNKNOWN", "r-1-0", "\u0661" * 26)))


def test_a_redis_that_is_unavailable_says_so() -> None:
    with pytest.raises(BackendUnavailable):
        RQBackend("redis://127.0.0.1:1").cancel([message("a", ref="01A")])

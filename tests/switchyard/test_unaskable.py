"""A service that takes what it is sent and answers no questions, for long or for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.platform.config import load
from app.platform.wiring import make_runtime
from app.switchyard import runtime
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message
from app.switchyard.runs.relay import TRUSTED, sweep
from tests.support.sides import Fixed, decide_by, environment
from tests.support.tables import create_all


class Unaskable:
    waits_until_due = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        if self.away:
            raise BackendUnavailable("away")
        self.sent += messages
        return {message.run_id: f"ref-{message.run_id}" for message in messages}

    def queued(self, messages: Sequence[Message]) -> set[str]:
        if any(message.ref is not None for message in messages):
            raise BackendUnavailable("it answered 401")
        return set()

    def cancel(self, messages: Sequence[Message]) -> None: ...

    def ping(self) -> None: ...


class Time:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def service() -> Unaskable:
    return Unaskable("inngest")


@pytest.fixture
def at() -> Time:
    return Time()


@pytest.fixture
def made(tmp_path: Path, service: Unaskable, at: Time) -> Iterator[runtime.Runtime]:
    env = load(environment(f"sqlite:///{tmp_path / 'test.db'}", "redis://127.0.0.1:1"))
    made = make_runtime(env, clock=at, backends=[service])
    create_all(made.db.engine)
    decide_by(Fixed("inngest"))
    yield made
    made.db.dispose()


def test_what_it_was_never_told_it_is_told(
    made: runtime.Runtime, service: Unaskable, at: Time
) -> None:
    sent = dispatch("noop", {"name": "sent"})
    service.away = True
    unsent = dispatch("noop", {"name": "unsent"})
    service.away = False
    at.now += timedelta(seconds=5)
    swept = sweep(made.store)
    assert [message.run_id for message in service.sent] == [sent.id, unsent.id]
    assert (swept.sent, swept.unreachable) == (1, 1)


def test_what_it_was_told_long_ago_it_is_told_again(
    made: runtime.Runtime, service: Unaskable, at: Time
) -> None:
    """Sent twice is harmless; what was lost there, and is never sent again, is lost."""
    run = dispatch("noop", {"name": "n"})
    end = at.now + 7 * TRUSTED
    while at.now < end:
        at.now += timedelta(seconds=30)
        sweep(made.store)
    assert {message.run_id for message in service.sent} == {run.id}
    assert [message.sends for message in service.sent] == [0, 1, 2, 3]

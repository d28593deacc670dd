"""A drop-in queue whose declared functions become runs done in this process; RQ beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select

import queues
from app.switchyard.runs.models import RunRow as R
from queues.backend import connect
from queues.inventory import call_sites
from tests.support.sides import (
    Fixed,
    Side,
    decide_by,
    side,
)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    connection = connect(redis_url)
    connection.flushall()
    call_sites.forget()
    yield connection
    connection.close()


@pytest.fixture
def on(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[Side]:
    """Runs done in this process; RQ beside it."""
    with side("memory", f"sqlite:///{tmp_path / 'test.db'}", redis_url, tmp_path) as made:
        decide_by(Fixed("memory"))
        yield made


@pytest.fixture
def queue(on: Side, redis: Redis) -> Any:
    return queues.Queue("old", connection=redis)


def rows(on: Side, job: str) -> list[Any]:
    return on.runtime.db.rows(select(R.__table__).where(R.job == job).order_by(R.created_at, R.key))


def work(on: Side) -> None:
    assert on.memory is not None
    on.memory.work(on.runtime.engine)

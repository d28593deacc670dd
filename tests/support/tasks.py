"""Functions that an application has RQ run, and that `old_jobs` makes jobs of, as they are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rq import get_current_job
from rq.job import JobStatus

from app.switchyard import current_run

if TYPE_CHECKING:
    from uuid import UUID


class Level(Enum):
    LOW = 1
    HIGH = 2


@dataclass
class Line:
    article: str
    price: Decimal


class Order(BaseModel):
    placed: date
    lines: list[Line]


def settle(
    order: Order,
    at: datetime,
    ref: UUID,
    /,
    note: str = None,  # type: ignore[assignment]  # noqa: RUF013
    *,
    level: Level = Level.LOW,
    wait: timedelta = timedelta(minutes=5),
    shares: dict[int, Decimal] | None = None,
) -> list[Any]:
    """Say what it was given, in its own types."""
    assert at.tzinfo is not None
    total = sum((line.price for line in order.lines), Decimal(0))
    by_key = {key + 1: f"{share}" for key, share in (shares or {}).items()}
    first = [ref.version, order.placed + timedelta(days=1), total, at.astimezone(UTC)]
    return [*first, note, level.name, wait.total_seconds(), by_key]


def count_up(path: str, fail_times: int = 0) -> int:
    """How often it was called; fails as often as it is to."""
    file = Path(path)
    calls = len(file.read_text()) + 1 if file.exists() else 1
    file.write_text("x" * calls)
    if calls <= fail_times:
        raise RuntimeError("on purpose")
    return calls


async def after_all(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


def handle() -> object:
    """Its result is no JSON."""
    return object()


def seen(times: int, note: str = "") -> list[Any]:
    """As a function that knows RQ: what its job says of itself, once it was tried so often."""
    job: Any = get_current_job()
    assert job.get_id() == job.id
    assert job.started_at >= job.created_at
    job.meta["seen"] = job.meta.get("seen", 0) + 1
    job.save_meta()
    job.meta["unsaved"] = True
    if job.meta["seen"] < times:
        raise RuntimeError("on purpose")
    job.refresh()
    run = current_run()
    assert run is not None
    run.progress(1, 1)
    assert job.retries_left == 5 - run.attempt
    return [
        job.id,
        job.origin,
        job.func_name,
        job.kwargs,
        job.meta,
        JobStatus(job.get_status()).value,
    ]

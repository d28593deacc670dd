"""Ticks: one run per occurrence, UTC, whatever proposes it and how often."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app import tables
from app.config import load
from app.cutover.clocks import propose
from app.jobs import catalogue
from app.jobs.catalogue import Catalogue, JobSpec
from app.runs.memory import MemoryBackend
from app.runs.models import RunRow
from app.runtime import Runtime
from app.wiring import make_runtime

PAY_DAY = catalogue.load("app.jobs.payouts")["process-payouts"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Runtime]:
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}"}
    memory = MemoryBackend()
    memory.name = "rq"
    runtime = make_runtime(load(environ), backends=[memory])
    tables.metadata.create_all(runtime.db.engine)
    yield runtime
    runtime.db.dispose()


def keys(made: Runtime, job: str) -> list[str]:
    chosen = select(RunRow.key).where(RunRow.job == job).order_by(RunRow.key)
    with made.db.autocommit() as connection:
        return list(connection.scalars(chosen))


def only(spec: JobSpec) -> Catalogue:
    chosen = Catalogue()
    chosen.add(spec)
    return chosen


def test_two_clocks_over_three_months_of_a_leap_year(made: Runtime) -> None:
    object.__setattr__(made, "catalogue", only(PAY_DAY))
    start = datetime(2028, 1, 20, tzinfo=UTC)
    for clock in range(2):
        seen = start + timedelta(minutes=7 * clock)
        while seen < datetime(2028, 4, 20, tzinfo=UTC):
            until = seen + timedelta(hours=11, minutes=13 * (clock + 1))
            assert propose(made, seen, until)
            seen = until - timedelta(minutes=30)  # and it steps back now and then
    assert keys(made, "process-payouts") == [
        "2028-02-01",
        "2028-02-15",
        "2028-03-01",
        "2028-03-15",
        "2028-04-01",
        "2028-04-15",
    ]


def test_a_tick_that_does_not_fit_holds_up_no_other(made: Runtime) -> None:
    broken = Catalogue()
    for name, spec in (("a", PAY_DAY), ("process-payouts", PAY_DAY)):
        values = {f: getattr(spec, f) for f in JobSpec.__slots__}
        changed = {"name": name, "event": name, "tick": None} if name == "a" else {}
        broken.add(JobSpec(**(values | changed)))
    object.__setattr__(made, "catalogue", broken)
    object.__setattr__(made.store, "catalogue", broken)
    day = datetime(2028, 2, 1, tzinfo=UTC)
    assert propose(made, day, day + timedelta(days=1))
    assert keys(made, "process-payouts") == ["2028-02-01"]
    assert keys(made, "a") == []


def test_the_machine_s_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC)
    found = []
    for zone in ("UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kathmandu"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.append(PAY_DAY.occurrences(start, end))
    monkeypatch.undo()
    time.tzset()
    assert found == [[datetime(2026, 4, 1, 9, 0, tzinfo=UTC)]] * 4


YEARS = (datetime(2024, 1, 1), datetime(2032, 1, 1))  # noqa: DTZ001 - Hypothesis adds the zone


@given(st.datetimes(*YEARS, timezones=st.just(UTC)))
def test_a_cron_event_is_its_occurrence(fired: datetime) -> None:
    occurrence = PAY_DAY.occurrence_at(fired)
    assert occurrence <= fired + timedelta(seconds=2)
    assert PAY_DAY.occurrences(occurrence, fired) == []
    assert (occurrence.day, occurrence.hour, occurrence.minute) in {(1, 9, 0), (15, 9, 0)}

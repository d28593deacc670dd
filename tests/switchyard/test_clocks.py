"""Ticks: one run per occurrence, UTC, whatever proposes it, how often, and however late."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import inngest
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from app.switchyard.cutover import clock
from app.switchyard.cutover.clock import MOST, OLDEST, Ticker, catch_up, tick
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.job import Catalogue, Empty, JobSpec, Missed
from app.switchyard.job import load as load_jobs
from tests.support.world import World
from workflows.functions import CRON_EVENT, _adopt

JOBS = load_jobs(
    "app.platform.payouts.jobs,app.platform.earnings.jobs,app.platform.statements.jobs,"
    "app.switchyard.maintenance,tests.support.jobs"
)
PAY_DAY = JOBS["process-payouts"]
ACCOUNTS = JOBS["update-account-statuses"]
REAL = [
    *(PAY_DAY, replace(ACCOUNTS, missed=Missed.ALL)),
    *(JOBS["daily-earnings-rollup"], JOBS["monthly-earnings-rollup"]),
]
EACH_HOUR = replace(JOBS["noop"], schedule="0 * * * *", payload=Empty)
ALL = replace(EACH_HOUR, name="each", event="each", missed=Missed.ALL)
LAST = replace(EACH_HOUR, name="latest", event="latest", missed=Missed.LAST)
START = datetime(2028, 1, 20, 3, 7, tzinfo=UTC)
HOUR = 3600.0


@pytest.fixture
def world(world: World) -> World:
    world.time.now = START
    return world


def having(world: World, *specs: JobSpec) -> None:
    """Give the world these jobs and no others."""
    chosen = Catalogue()
    for spec in specs:
        chosen.add(spec)
    store = replace(world.runtime.store, catalogue=chosen)
    engine = replace(world.runtime.engine, store=store)
    world.runtime = replace(world.runtime, catalogue=chosen, store=store, engine=engine)
    world.tickers = [Ticker(world.runtime, world.time.monotonic) for _ in range(2)]
    world.install()


def rounds(world: World, seconds: float, every: float = 1.0, clocks: int = 1) -> None:
    """Let time pass, and the clocks look."""
    for _ in range(round(seconds / every)):
        world.time.pass_(every)
        for ticker in world.tickers[:clocks]:
            ticker.round()


def keys(world: World, job: str) -> list[str]:
    return sorted(row.key for row in world.rows() if row.job == job)


def ticks(spec: JobSpec, after: datetime, until: datetime) -> list[str]:
    """Returns the keys of the runs that are scheduled in (after, until]."""
    found = []
    for at in spec.occurrences(after, until):
        payload = None if spec.tick is None else spec.parse(spec.tick(at))
        own = None if spec.key is None else spec.key(payload)
        found.append(own or f"tick:{at:%Y-%m-%dT%H:%M:%S.000Z}")
    return sorted(found)


def cron(at: datetime) -> inngest.Event:
    when = at.isoformat()
    return inngest.Event(name=CRON_EVENT, data={"scheduledAt": when}, ts=int(at.timestamp() * 1000))


@pytest.mark.minutes
@pytest.mark.timeout(600)
def test_two_clocks_of_each_kind_over_a_leap_february(world: World) -> None:
    start = world.time.now = datetime(2028, 1, 30, 3, 7, tzinfo=UTC)
    having(world, *REAL)
    for ticker in world.tickers:
        ticker.round()
    end = start + timedelta(days=32)
    came = {spec.name: start for spec in REAL}
    turn = 0
    while world.time.now < end:
        turn += 1
        # At odd times, so that each of the kinds is the first to come now and then.
        world.time.pass_((7200, 3540, 30_100, 59, 14_000)[turn % 5])
        now = world.time.now
        for ticker in world.tickers[:: 1 if turn % 2 else -1]:
            if turn % 3:
                ticker.round()
        for spec in REAL:
            due = spec.occurrences(came[spec.name], now)
            came[spec.name] = now
            if spec.name == ACCOUNTS.name and turn % 8:
                continue
            for at in due:
                for _ in range(2):
                    _adopt(spec, cron(at))
                    tick(spec, at)
    for ticker in world.tickers:
        ticker.round()
    for spec in REAL:
        assert keys(world, spec.name) == ticks(spec, start, world.time.now), spec.name
    pay_days = [f"2028-0{month}-{day:02}" for month, day in ((2, 1), (2, 15), (3, 1))]
    assert keys(world, "process-payouts") == pay_days
    assert "2028-02-29" in keys(world, "daily-earnings-rollup")


def test_all_clocks_down_for_six_hours(world: World) -> None:
    having(world, ALL, LAST)
    rounds(world, 2 * HOUR, 300.0)
    down = world.time.now
    world.time.pass_(6 * HOUR)
    world.tickers = [Ticker(world.runtime, world.time.monotonic)]
    rounds(world, 60.0)
    now = world.time.now
    assert keys(world, "each") == ticks(ALL, START, now)
    missed = ticks(LAST, down, now)
    assert (len(missed), keys(world, "latest")) == (6, ticks(LAST, START, down) + missed[-1:])


@pytest.mark.parametrize("kind", ["inngest", "qstash", "relay-sweep"])
def test_whichever_clock_returns_first_makes_up_for_all_jobs(world: World, kind: str) -> None:
    having(world, ALL, PAY_DAY, JOBS["relay-sweep"])
    world.tickers[0].round()
    world.time.pass_(13 * 86_400.0)
    at = ALL.occurrence_at(world.time.now)
    if kind == "inngest":
        _adopt(ALL, cron(at))
    elif kind == "qstash":
        tick(ALL, at)
    else:
        dispatch("relay-sweep", {})
        world.work()
    assert keys(world, "process-payouts") == ["2028-02-01"]
    assert keys(world, "each") == ticks(ALL, START, world.time.now)


def test_a_new_job_counts_from_now(world: World) -> None:
    having(world, ALL)
    rounds(world, HOUR, 300.0)
    having(world, ALL, LAST)
    began = world.time.now
    rounds(world, 3 * HOUR, 300.0)
    assert keys(world, "latest") == ticks(LAST, began, world.time.now)


def test_a_clock_that_steps_back_doubles_nothing(world: World) -> None:
    having(world, ALL, LAST)
    rounds(world, 5 * HOUR, 300.0)
    world.time.offset = timedelta(hours=-3)
    rounds(world, 6 * HOUR, 300.0)
    world.time.offset = timedelta(0)
    rounds(world, HOUR, 300.0)
    assert keys(world, "each") == ticks(ALL, START, world.time.now)
    assert set(keys(world, "latest")) < set(ticks(LAST, START, world.time.now))


@pytest.mark.minutes
@pytest.mark.timeout(600)
def test_a_clock_that_stays_ahead_neither_floods_nor_starves(world: World) -> None:
    having(world, ALL, PAY_DAY)
    rounds(world, 2 * HOUR, 600.0, clocks=2)
    world.time.offset = timedelta(days=1500)
    rounds(world, 3 * HOUR, 300.0)
    future = START + OLDEST + timedelta(days=7)
    assert 0 < len([k for k in keys(world, "each") if k > f"tick:{future:%Y-%m-%d}"]) <= MOST + 4
    world.time.offset = timedelta(0)
    rounds(world, 30 * 86_400.0, 6 * HOUR)
    wanted = ticks(ALL, START, world.time.now)
    assert [key for key in keys(world, "each") if key <= max(wanted)] == wanted
    assert keys(world, "process-payouts")[:2] == ["2028-02-01", "2028-02-15"]


def test_a_clock_that_jumps_for_a_moment_is_not_believed(world: World) -> None:
    having(world, ALL)
    rounds(world, 2 * HOUR, 300.0)
    world.time.offset = timedelta(days=2)
    rounds(world, clock.STEADY_SECONDS - 1)
    world.time.offset = timedelta(0)
    assert keys(world, "each") == ticks(ALL, START, world.time.now)


def test_another_machine_s_clock_that_is_ahead_starves_nobody(world: World) -> None:
    having(world, ALL, LAST)
    rounds(world, 2 * HOUR, 300.0)
    wrong = Ticker(world.runtime, world.time.monotonic)
    for _ in range(10):
        rounds(world, 900.0, 300.0)
        world.time.offset = timedelta(days=2)
        wrong.round()
        world.time.offset = timedelta(0)
    assert set(ticks(LAST, START, world.time.now)) <= set(keys(world, "latest"))
    wanted = ticks(ALL, START, world.time.now)
    assert [key for key in keys(world, "each") if key <= max(wanted)] == wanted


def test_what_is_too_old_is_left_to_a_human(world: World, caplog: pytest.LogCaptureFixture) -> None:
    having(world, ALL, PAY_DAY)
    world.tickers[0].round()
    world.time.pass_(400 * 86_400.0)
    world.tickers = [Ticker(world.runtime, world.time.monotonic)]
    rounds(world, 30.0)
    now = world.time.now
    assert keys(world, "each") == ticks(ALL, START, now)[-MOST:]
    assert keys(world, "process-payouts") == ticks(PAY_DAY, now - OLDEST, now)
    assert "the oldest are not made up" in caplog.text


def test_a_tick_that_could_not_be_recorded_is_tried_again(world: World) -> None:
    having(world, ALL, LAST)
    world.tickers[0].round()
    gone = OperationalError("select", {}, Exception("gone"))
    rounds(world, HOUR - 10 * 60.0, 60.0)
    with patch("app.switchyard.cutover.clock.dispatch", side_effect=gone):
        rounds(world, 10 * 60.0, 60.0)
    assert keys(world, "each") == []
    rounds(world, 60.0, 60.0)
    assert keys(world, "each") == ticks(ALL, START, world.time.now)
    assert keys(world, "latest") == ticks(LAST, START, world.time.now)


def test_a_tick_that_does_not_fit_holds_up_no_other(world: World) -> None:
    having(world, replace(PAY_DAY, name="a", event="a", tick=None), PAY_DAY)
    world.tickers[0].round()
    world.time.pass_(13 * 86_400.0)
    assert catch_up(world.runtime, world.time.now)
    assert keys(world, "process-payouts") == ["2028-02-01"]
    assert keys(world, "a") == []
    assert set(clock.read_marks(world.runtime.db).values()) == {world.time.now}


def test_a_run_by_hand_is_the_tick_of_its_day(world: World) -> None:
    having(world, PAY_DAY)
    world.tickers[0].round()
    by_hand = dispatch("process-payouts", {"payoutDate": "2028-02-01"})
    odd = dispatch("process-payouts", {"payoutDate": "2028-02-15", "dayOfMonth": 16})
    rounds(world, 30 * 86_400.0, 6 * HOUR)
    assert keys(world, "process-payouts") == ["2028-02-01", "2028-02-15"]
    assert {row.id for row in world.rows()} == {by_hand.id, odd.id}


def test_the_machine_s_zone_does_not_matter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone leaves an hour out on 26 March, and has one twice on 29 October."""
    having(world, ALL, PAY_DAY)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for start, pay_day in (
            (datetime(2028, 3, 25, 22, 30, tzinfo=UTC), datetime(2028, 4, 1, 9, tzinfo=UTC)),
            (datetime(2028, 10, 28, 22, tzinfo=UTC), datetime(2028, 11, 1, 9, tzinfo=UTC)),
        ):
            world.time.now = start
            clock.begin_marks(world.runtime.db, ["each", "process-payouts"], start)
            clock.advance_marks(world.runtime.db, ["each", "process-payouts"], start)
            world.tickers = [Ticker(world.runtime, world.time.monotonic)]
            before = keys(world, "each")
            rounds(world, 24 * HOUR, HOUR)
            rounds(world, 7 * 86_400.0, 6 * HOUR)
            assert sorted([*before, *ticks(ALL, start, world.time.now)]) == keys(world, "each")
            assert PAY_DAY.occurrences(start, world.time.now) == [pay_day]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert keys(world, "process-payouts") == ["2028-04-01", "2028-11-01"]


YEARS = (datetime(2024, 1, 1), datetime(2032, 1, 1))  # noqa: DTZ001 - Hypothesis adds the zone


@given(st.datetimes(*YEARS, timezones=st.just(UTC)))
def test_a_cron_event_is_its_occurrence(fired: datetime) -> None:
    occurrence = PAY_DAY.occurrence_at(fired)
    assert occurrence <= fired + timedelta(seconds=2)
    assert PAY_DAY.occurrences(occurrence, fired) == []
    assert PAY_DAY.occurrence_after(occurrence) > fired
    assert (occurrence.day, occurrence.hour, occurrence.minute) in {(1, 9, 0), (15, 9, 0)}


NAMED = "{at:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("id_", "lead"),
    [
        pytest.param(NAMED, 0, id="but is named after it"),
        pytest.param(NAMED, 14, id="but is named after it, and comes some seconds ahead"),
        pytest.param("01M843ZAR12GCVYCTRGJ33HGCH", 0, id="nor is named after it"),
    ],
)
def test_a_cron_event_that_does_not_say_when(world: World, id_: str, lead: int) -> None:
    """Servers of 2025 send it some seconds ahead; the oldest ones at that very second."""
    having(world, ALL)
    at = ALL.occurrence_after(world.time.now)
    ts = int((at - timedelta(seconds=lead)).timestamp() * 1000)
    data = {"cron": "0 * * * *"}
    _adopt(ALL, inngest.Event(name=CRON_EVENT, data=data, id=id_.format(at=at), ts=ts))
    assert keys(world, "each") == ticks(ALL, at - timedelta(hours=1), at)


def test_a_cron_event_without_a_zone_is_in_utc(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's zone changes nothing."""
    having(world, ALL)
    at = ALL.occurrence_at(world.time.now)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        data = {"scheduledAt": at.replace(tzinfo=None).isoformat()}
        _adopt(ALL, inngest.Event(name=CRON_EVENT, data=data, ts=1))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert keys(world, "each") == ticks(ALL, at - timedelta(hours=1), at)


@pytest.mark.parametrize(
    "when",
    [
        *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2150-01-01T00:00:00Z"),
        *("2028-01-20T04:08:00Z", "1999-12-31T23:59:59Z"),
    ],
)
def test_a_cron_event_of_another_time_starts_nothing(world: World, when: str) -> None:
    """More than an hour ahead, or before 2000: that clock is wrong, and a tick makes up others."""
    having(world, ALL)
    event = inngest.Event(name=CRON_EVENT, data={"scheduledAt": when}, ts=1)
    with pytest.raises(BadInput, match="a tick of"):
        _adopt(ALL, event)
    for ts in (1, -(2**63), 2**70, 10**400):
        with pytest.raises(BadInput, match="a tick of"):
            _adopt(ALL, inngest.Event(name=CRON_EVENT, data={}, ts=ts))
    assert world.rows() == []


def test_a_tick_that_comes_early_makes_up_only_what_was_due(world: World) -> None:
    """A pay day must not come because another server's clock is ahead."""
    having(world, ALL, LAST)
    catch_up(world.runtime, world.time.now)
    ahead = ALL.occurrence_after(world.time.now)
    _adopt(ALL, cron(ahead))
    assert keys(world, "each") == ticks(ALL, ahead - timedelta(hours=1), ahead)
    assert keys(world, "latest") == []

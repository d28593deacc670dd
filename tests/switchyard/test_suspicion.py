"""A service that takes what it is sent and may have lost it: what is sent again, and what not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.switchyard.db import Database
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Delivery, End, Message, Refused
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.relay import Swept, look_at_silent, run_forever, send_due, sweep
from app.switchyard.runs.store import CHUNK
from app.switchyard.runs.suspicion import ACTIVE, ENDED, MOST, Suspicion
from app.switchyard.runtime import Runtime
from tests.support.plans import plan_if_large
from tests.support.sides import Fixed, decide_by, ledger
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.support.world import Time


class Service:
    """Delivers nothing by itself, and answers no questions."""

    waits_until_due = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.asked = 0
        self.refuses: Refused | None = None
        """What it answers to a run that is named big."""
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        self.asked += 1
        if self.away:
            raise BackendUnavailable("away")
        self.sent += messages
        refuses = self.refuses
        return {
            m.run_id: refuses if refuses and "big" in m.payload else f"ref-{m.run_id}"
            for m in messages
        }

    def queued(self, messages: Sequence[Message]) -> set[str] | None:
        return None

    def cancel(self, messages: Sequence[Message]) -> None: ...

    def ping(self) -> None: ...

    def taken(self) -> list[Message]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def service() -> Service:
    return Service("inngest")


@pytest.fixture
def runtime(tmp_path: Path, service: Service, at: Time) -> Iterator[Runtime]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with ledger(url, service, clock=at, CHECK_SECONDS="5", LEASE_SECONDS="10") as runtime:
        decide_by(Fixed("inngest"))
        yield runtime


def many(job: str, count: int) -> list[str]:
    return [run.id for run in dispatch_many(job, [{"name": str(n)} for n in range(count)])]


def deliver(runtime: Runtime, message: Message) -> None:
    """As the service does, to the end."""
    delivery = Delivery("inngest-1", sent_at=message.sent_at or message.due_at)
    assert runtime.engine.perform(message.run_id, message.epoch, delivery).end == End.DONE


def looks(runtime: Runtime, at: Time, seconds: float, suspicion: Suspicion) -> list[int]:
    """How many runs each look sent again, one a second."""
    counts = []
    for _ in range(int(seconds)):
        at.now += timedelta(seconds=1)
        swept = Swept()
        look_at_silent(runtime.store, suspicion, swept)
        counts.append(swept.sent)
    return counts


def test_what_it_was_never_sent_it_is_sent(runtime: Runtime, service: Service, at: Time) -> None:
    dispatch("noop", {"name": "sent"})
    service.away = True
    unsent = [dispatch("noop", {"name": str(n)}).id for n in range(3)]
    service.away = False
    service.taken()
    at.now += runtime.store.check
    sweep(runtime.store)
    # Under the same id, so that what it did take after all starts nothing twice.
    assert {m.run_id for m in service.taken() if m.sends == 0} >= set(unsent)


def test_a_backend_that_is_away_is_asked_once(runtime: Runtime, service: Service) -> None:
    """Each try may wait for seconds, and a drain of 10,000 runs made 20."""
    runs = many("noop", CHUNK + 1)
    service.away = True
    service.asked = 0
    runtime.store.send(runs)
    assert service.asked == 1


def test_what_is_refused_is_sent_less_and_less_often(
    runtime: Runtime, service: Service, at: Time, caplog: pytest.LogCaptureFixture
) -> None:
    service.refuses = Refused("its data is too big")
    run = dispatch("noop", {"name": "big"})
    other = dispatch("noop", {"name": "small"})
    shown = select(R.error).where(R.id == run.id)
    assert runtime.db.value(shown) == "not sent: its data is too big"
    assert runtime.db.value(select(R.error).where(R.id == other.id)) is None
    deliver(runtime, service.taken()[1])
    counts = looks(runtime, at, 2400, Suspicion(runtime.store))
    gaps = [later - one for one, later in pairwise(n for n, sent in enumerate(counts) if sent)]
    assert gaps[:4] == [5, 10, 20, 40]
    assert set(gaps[-5:]) == {300}
    assert "its data is too big" in caplog.text
    service.refuses = None
    service.taken()
    at.now += timedelta(minutes=5)
    sweep(runtime.store)
    (message,) = (m for m in service.taken() if m.run_id == run.id)
    assert runtime.db.value(shown) is None
    deliver(runtime, message)


def test_what_its_sender_records_meanwhile_is_not_sent_again(
    runtime: Runtime, service: Service, at: Time
) -> None:
    """A large batch is still being sent when the relay looks, and its references come late."""
    runs = many("noop", 3)
    batch = service.taken()
    with runtime.db.begin() as connection:
        connection.execute(update(R).values(sent_ref=None))

    def recorded_now(_messages: Sequence[Message]) -> None:
        runtime.store.send_messages(batch)

    at.now += runtime.store.check
    service.queued = recorded_now  # type: ignore[method-assign, assignment]
    swept = Swept()
    look_at_silent(runtime.store, Suspicion(runtime.store), swept)
    sent = service.taken()
    assert sorted(m.run_id for m in sent) == sorted(runs)  # by its sender alone
    assert {m.sends for m in sent} == {0}
    assert swept.sent == 0


def test_a_look_reads_the_payloads_only_of_what_it_sends_again(
    runtime: Runtime, service: Service, at: Time
) -> None:
    """Thousands of silent runs with large payloads would otherwise be more than fits in memory."""
    many("noop", 1)
    service.taken()
    asked: list[Message] = []
    at.now += runtime.store.check
    service.queued = asked.extend  # type: ignore[method-assign, assignment]
    look_at_silent(runtime.store, Suspicion(runtime.store), Swept())
    assert [m.payload for m in asked] == [""]
    assert [m.payload for m in service.taken()] == ['{"name":"0"}']


def test_what_was_passed_over_is_sent_again(runtime: Runtime, service: Service, at: Time) -> None:
    """Its job goes on with what was sent later."""
    old = many("noop", 5)
    other = many("child", 1)
    at.now += runtime.store.check
    many("noop", 1)
    deliver(runtime, service.taken()[-1])
    swept = Swept()
    look_at_silent(runtime.store, Suspicion(runtime.store), swept)
    sent = service.taken()
    assert sorted(m.run_id for m in sent if m.spec.name == "noop") == sorted(old)
    assert {m.sends for m in sent} == {1}
    # Of the other job nothing is known: one is sent to find out.
    assert [m.run_id for m in sent if m.spec.name == "child"] == other


def test_a_probe_that_is_delivered_is_the_sign_for_the_others(
    runtime: Runtime, service: Service, at: Time
) -> None:
    runs = many("noop", 40)
    service.taken()
    suspicion = Suspicion(runtime.store)
    assert sum(looks(runtime, at, runtime.store.check.total_seconds(), suspicion)) == 1
    (probe,) = service.taken()
    runs.remove(probe.run_id)
    deliver(runtime, probe)
    assert sum(looks(runtime, at, runtime.store.check.total_seconds(), suspicion)) == 39
    assert {m.run_id for m in service.taken()} == set(runs)


def test_a_backlog_that_moves_is_left_alone(runtime: Runtime, service: Service, at: Time) -> None:
    """It is asked less and less whether it does, and nothing else is sent twice."""
    many("noop", 150)
    backlog = service.taken()
    suspicion, again = Suspicion(runtime.store), []
    for _ in range(150):
        again += looks(runtime, at, 1, suspicion)
        deliver(runtime, backlog.pop(0))
        service.taken()
    assert 0 < sum(again) <= 6
    assert set(again) == {0, 1}


def test_a_look_sends_a_bounded_number_again(runtime: Runtime, service: Service, at: Time) -> None:
    many("noop", 2 * MOST + 10)
    service.taken()
    at.now += runtime.store.check
    many("noop", 1)
    deliver(runtime, service.taken()[0])
    counts = looks(runtime, at, 4, Suspicion(runtime.store))
    assert [count for count in counts if count][:3] == [MOST, MOST, 10]


def test_the_gap_of_a_run_grows(runtime: Runtime, service: Service, at: Time) -> None:
    """Whoever is called may be back, so it is soon sent again, and then ever later."""
    many("noop", 1)
    service.taken()
    times: list[float] = []
    suspicion = Suspicion(runtime.store)
    for second in range(1, 61):
        if sum(looks(runtime, at, 1, suspicion)):
            times.append(second)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert times[0] <= 6
    assert gaps[-1] <= 16


def test_who_waits_for_a_slot_is_not_suspicious(
    runtime: Runtime, service: Service, at: Time
) -> None:
    many("capped", 5)
    with runtime.db.begin() as connection:
        rows = connection.execute(select(R.id).order_by(R.id).limit(2)).all()
        for slot, row in enumerate(rows, 1):
            lease = at.now + runtime.store.check + runtime.store.lease
            running = {"status": "running", "slot": slot, "check_at": lease}
            connection.execute(update(R).where(R.id == row.id).values(**running))
    service.taken()
    at.now += runtime.store.check
    swept = Swept()
    look_at_silent(runtime.store, Suspicion(runtime.store), swept)
    assert (swept.sent, service.taken()) == (0, [])


def test_what_it_is_unavailable_for_changes_nothing_in_the_ledger(
    runtime: Runtime, service: Service, at: Time
) -> None:
    """A run that is due is marked as sent only where it can be."""

    def gone() -> None:
        raise BackendUnavailable("gone")

    service.waits_until_due = False
    run = dispatch("noop", {"name": "n"}, delay=1)
    service.ping = gone  # type: ignore[method-assign]
    at.now += timedelta(seconds=1)
    swept = Swept()
    send_due(runtime.store, swept)
    assert (swept.sent, swept.unreachable) == (0, 1)
    del service.ping
    send_due(runtime.store, swept)
    assert (swept.sent, [m.run_id for m in service.taken()]) == (1, [run.id])


def test_what_is_due_is_sent_some_at_a_time(
    runtime: Runtime, service: Service, at: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more payloads are in memory than are sent at once."""
    service.waits_until_due = False
    items = [Item({"name": str(n)}, delay=timedelta(seconds=1)) for n in range(CHUNK + 1)]
    runs = {run.id for run in dispatch_many("noop", items)}
    sizes: list[int] = []
    send = service.send

    def counted(messages: Sequence[Message]) -> Mapping[str, str]:
        sizes.append(len(messages))
        return send(messages)

    monkeypatch.setattr(service, "send", counted)
    at.now += timedelta(seconds=1)
    send_due(runtime.store, Swept())
    assert sizes == [CHUNK, 1]
    assert {message.run_id for message in service.taken()} == runs


def test_none_of_the_three_waits_for_another(runtime: Runtime, service: Service) -> None:
    """A backend that takes for ever to say what it holds holds up nothing that is due."""
    asked, stop = threading.Event(), threading.Event()

    def queued(_messages: Sequence[Message]) -> set[str]:
        asked.set()
        stop.wait()
        return set()

    service.waits_until_due = False
    service.queued = queued  # type: ignore[method-assign, assignment]
    dispatch("noop", {"name": "silent"})
    later = dispatch("noop", {"name": "due"}, delay=7)
    service.taken()
    runtime.store.clock.now += timedelta(seconds=6)  # type: ignore[attr-defined]
    thread = threading.Thread(target=run_forever, args=(runtime.store, stop, 0.02), daemon=True)
    thread.start()
    assert asked.wait(PATIENCE_SECONDS)
    runtime.store.clock.now += timedelta(seconds=2)  # type: ignore[attr-defined]
    assert until(lambda: [m.run_id for m in service.sent] == [later.id])
    stop.set()
    thread.join(PATIENCE_SECONDS)


def test_what_a_look_reads_does_not_grow_with_the_ledger(db: Database) -> None:
    """Each of its statements reads an index of open, unsent or just ended runs."""
    now = datetime(2031, 1, 1, tzinfo=UTC)
    of = {"of_job": "j", "on": "b"}
    due = select(R.id).where(R.send_at <= now).order_by(R.send_at)
    lapsed = select(R.id).where(R.check_at <= now, R.status == Status.RUNNING)
    for index, statement, bound in (
        ("ix_switchyard_runs_ended", ENDED, of),
        ("ix_switchyard_runs_open", ACTIVE, of | {"now": now, "soon": now}),
        ("ix_switchyard_runs_unsent", due, {}),
        ("ix_switchyard_runs_open", lapsed, {}),
    ):
        assert index in plan_if_large(db, statement, **bound), statement

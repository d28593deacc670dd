"""Inngest's side: signatures, events from elsewhere, cron, what its server does wrong."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import requests
from sqlalchemy import select, update

from app.platform.config import load
from app.switchyard.db import canonical_json
from app.switchyard.runs import operate
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import current
from tests.support import jobs
from tests.support.serving import serve_in_thread
from tests.support.sides import (
    Fixed,
    Side,
    build,
    decide_by,
    environment,
    free_port,
    fresh,
    relaying,
)
from tests.support.standins import InngestStandIn
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.switchyard.test_signed_calls import KEY as SIGNING_KEY
from tests.switchyard.test_signed_calls import PATH, a_call
from workflows.functions import MOST_KEPT_BYTES, shown

EVENT_KEY = "event-key-of-the-test"
PATIENT = {"CHECK_SECONDS": "60", "LEASE_SECONDS": "60"}
"""Nobody is taken for lost on a busy machine."""


def serving(
    stack: ExitStack,
    tmp_path: Path,
    redis_url: str,
    *,
    signed: bool,
    gap_scale: float = 0.02,
    **more: str,
) -> tuple[Side, str]:
    """The app and a stand-in, in dev or signed mode, each step a call; no worker for RQ."""
    more.setdefault("INNGEST_CALL_SECONDS", "0")
    port = free_port()
    standin = InngestStandIn(
        [f"http://127.0.0.1:{port}/api/inngest"],
        event_key=EVENT_KEY if signed else None,
        signing_key=SIGNING_KEY if signed else None,
        gap_scale=gap_scale,
    )
    stack.enter_context(standin)
    environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url, **more)
    if signed:
        environ |= {
            "INNGEST_EVENT_KEY": EVENT_KEY,
            "INNGEST_SIGNING_KEY": f"signkey-test-{SIGNING_KEY}",
            "INNGEST_BASE_URL": standin.url,
            "ADMIN_TOKEN": "0123456789abcdef",
        }
    else:
        environ["INNGEST_DEV"] = standin.url
    fresh(environ).db.dispose()
    app = build(load(environ))
    runtime = current()
    stack.callback(runtime.db.dispose)
    url = stack.enter_context(serve_in_thread(app, port))
    assert set(standin.sync().values()) == {None}
    stack.enter_context(relaying(runtime))
    return Side("inngest", runtime, environ, standin=standin), url


@pytest.fixture
def dev(opened: ExitStack, tmp_path: Path, redis_url: str) -> tuple[Side, str]:
    return serving(opened, tmp_path, redis_url, signed=False, gap_scale=0.02, **PATIENT)


@pytest.fixture
def signed(opened: ExitStack, tmp_path: Path, redis_url: str) -> tuple[Side, str]:
    return serving(opened, tmp_path, redis_url, signed=True)


def there(on: Side) -> InngestStandIn:
    assert on.standin is not None
    return on.standin


def send(on: Side, event: dict[str, Any]) -> requests.Response:
    return requests.post(f"{there(on).url}/e/any", json=event, timeout=PATIENCE_SECONDS)


def runs_of(on: Side, job: str) -> list[Any]:
    chosen = select(RunRow.__table__).where(RunRow.job == job)
    with on.runtime.db.autocommit() as connection:
        return list(connection.execute(chosen))


def calls_of(on: Side, job: str) -> list[dict[str, Any]]:
    """Inngest's own runs of the job; those of jobs on a schedule come whenever a minute is full."""
    return [run for run in there(on).runs() if run["function"] == f"switchyard-{job}"]


def test_what_inngest_does_wrong_is_done_once(signed: tuple[Side, str]) -> None:
    """What it lost is asked about with the right bearer: a wrong one would leave it lost."""
    on, _ = signed
    faults = ("swallow", "double", "unknown_outcome")
    runs = []
    for fault in faults:
        there(on).fault(**{fault: 1.0})
        runs += on.dispatch_many("child", [{"name": f"{fault}/{i}"} for i in range(2)])
        on.settle(0.3)
    there(on).fault()
    on.finish(*runs)
    on.settle(0.3)
    assert on.marks("") == {f"{fault}/{i}": 1 for fault in faults for i in range(2)}


def unended(on: Side) -> list[str]:
    """What runs at Inngest."""
    ids = [run["run_id"] for run in there(on).runs() if run["status"] == "Running"]
    return [str(run) for run in ids]


def test_cancelled_here_is_cancelled_there(dev: tuple[Side, str]) -> None:
    """One is asleep, with a child; one would wake in a month, and is not yet listed."""
    on, _ = dev
    asleep = on.dispatch("sleeper", {"name": uuid4().hex, "waitSeconds": 600})
    until(lambda: on.row(asleep.id).status == "waiting")
    child = on.dispatch("sleeper", {"name": uuid4().hex, "waitSeconds": 600})
    until(lambda: on.row(child.id).status == "waiting")
    with on.runtime.db.begin() as connection:
        adopted = update(RunRow).where(RunRow.id == child.id).values(parent_id=asleep.id)
        connection.execute(adopted)
    later = on.dispatch("child", {"name": uuid4().hex}, delay=timedelta(days=30))
    assert len(unended(on)) == 3
    store = on.runtime.store
    sent = store.messages([on.row(run.id) for run in (later, asleep)])
    for run in (later, asleep):
        operate.cancel(store, run.id)
    until(lambda: not unended(on))
    store.backends["inngest"].cancel(sent)  # once more is no error
    assert {on.row(run.id).status for run in (later, asleep, child)} == {"cancelled"}


@pytest.mark.parametrize(("job", "calls"), [("child", 0), ("sleeper", 2), ("later", 1)])
def test_what_could_not_be_cancelled_there_ends_with_its_next_call(
    dev: tuple[Side, str], job: str, calls: int
) -> None:
    """Not yet begun, asleep, and before a retry; Inngest did not answer when it was cancelled."""
    on, url = dev
    n = uuid4().hex
    on.backend = "rq"  # nobody performs it there: only these calls do
    run = on.dispatch(job, {"name": n, "waitSeconds": 600})
    event = on.runtime.catalogue[job].event
    call = f"{url}/api/inngest?fnId=switchyard-{job}&stepId=step"
    body = a_call(event, {"_switchyard": {"run": run.id, "epoch": 1}})
    for _ in range(calls):
        requests.post(call, data=body, timeout=PATIENCE_SECONDS)
    assert on.row(run.id).status == ("waiting" if calls else "pending")
    before = on.marks(n)
    operate.cancel(on.runtime.store, run.id)
    answer = requests.post(call, data=body, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()) == (200, {"superseded": True})
    assert (on.row(run.id).status, on.marks(n)) == ("cancelled", before)


def test_cancelled_there_is_cancelled_here(dev: tuple[Side, str]) -> None:
    on, _ = dev
    later = on.dispatch("child", {"name": uuid4().hex}, delay=timedelta(days=30))
    asleep = on.dispatch("sleeper", {"name": uuid4().hex, "waitSeconds": 600})
    until(lambda: on.row(asleep.id).status == "waiting" and len(unended(on)) == 2)
    for run in unended(on):
        requests.delete(
            f"{there(on).url}/v1/runs/{run}", timeout=PATIENCE_SECONDS
        ).raise_for_status()
    rows = on.finish(later, asleep)
    assert {(row.status, row.error) for row in rows} == {("cancelled", operate.THERE)}


def test_a_run_that_went_on_without_it_is_not_cancelled(dev: tuple[Side, str]) -> None:
    """A drain takes back what it moves: that Inngest says so changes nothing."""
    on, _ = dev
    run = on.dispatch("parent", {"name": uuid4().hex})
    until(lambda: on.row(run.id).status == "waiting" and on.row(run.id).holder)
    holder = on.row(run.id).holder
    hand_over(on.runtime.store, [run.id], "rq")
    children = [child.id for child in on.children(run.id)]
    assert not operate.cancelled_there(on.runtime.store, run.id, 1, holder)
    assert on.row(run.id).status != "cancelled"
    assert "cancelled" not in {on.row(child).status for child in children}


def ended_there(on: Side, job: str, count: int) -> list[dict[str, Any]]:
    """So many of Inngest's own runs of the job, once they have ended; each is of an event."""

    def ended() -> list[dict[str, Any]]:
        return [run for run in calls_of(on, job) if run["ended_at"]]

    until(lambda: len(ended()) == count, ended)
    assert {run["status"] for run in ended()} == {"Completed"}
    return ended()


def test_short_steps_share_a_call(opened: ExitStack, tmp_path: Path, redis_url: str) -> None:
    short = {**PATIENT, "INNGEST_CALL_SECONDS": "60"}
    on, _ = serving(opened, tmp_path, redis_url, signed=False, gap_scale=0.02, **short)
    expected = {
        "well": (0, 0, 1),
        "one": (3, 2, 4),  # two failures, the step that is done then, the rest
        "all": (-1, 1, 11),  # more failures than Inngest grants a step
    }
    rows = on.finish(
        *(
            on.dispatch("five-steps", {"name": name, "failAt": at, "failures": failures})
            for name, (at, failures, _) in expected.items()
        )
    )
    assert {row.status for row in rows} == {"succeeded"}
    assert on.marks("") == {f"{name}/{i}": 1 for name in expected for i in range(1, 6)}
    ran = [run["calls"] for run in ended_there(on, "five-steps", len(expected))]
    assert ran == [calls for _, _, calls in expected.values()]


def test_a_result_that_inngest_does_not_take_stays_in_the_ledger(
    opened: ExitStack, tmp_path: Path, redis_url: str
) -> None:
    """It would refuse the answer and try again after its own gaps, or never call again."""
    on, _ = serving(opened, tmp_path, redis_url, signed=False, gap_scale=0.02, **PATIENT)
    rows = on.finish(*(on.dispatch("unsent", {"name": what}) for what in jobs.UNSENT))
    results = {what: json.loads(row.result) for what, row in zip(jobs.UNSENT, rows, strict=True)}
    assert results == jobs.UNSENT
    for run in ended_there(on, "unsent", len(jobs.UNSENT)):
        assert run["calls"] == 3
        assert len(json.dumps(run["output"])) < 100


def test_what_inngest_keeps_of_a_run_is_bounded() -> None:
    """With more than 4 MiB each call would ask for it, and with 32 it fails the run."""
    result = {"text": "x" * 100_000, "emoji": "\U0001f600", "flat": [[]] * 200}
    assert shown("[" * 200) == "[" * 200
    assert shown(result) == shown(result, MOST_KEPT_BYTES) == result
    assert len(canonical_json(shown(result, MOST_KEPT_BYTES + 1))) < 100


def test_a_payload_that_inngest_refuses_holds_up_nobody(dev: tuple[Side, str]) -> None:
    on, _ = dev
    n = uuid4().hex
    payloads = [{"name": f"{n}/{i}", "children": 10**400 if i == 1 else 0} for i in range(3)]
    on.finish(*on.dispatch_many("child", payloads))
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(3)}


def test_it_is_asked_to_wait_a_year_at_most(dev: tuple[Side, str]) -> None:
    on, _ = dev
    run = on.dispatch("child", {"name": uuid4().hex}, delay=timedelta(days=800))
    (kept,) = until(lambda: calls_of(on, "child"))
    days = (kept["event"]["ts"] / 1000 - time.time()) / 86_400
    assert 299 < days < 301
    body = json.loads(a_call("test.child", {"_switchyard": {"run": run.id, "epoch": 1}}))
    (op,) = requests.post(f"{dev[1]}{PATH}", json=body, timeout=PATIENCE_SECONDS).json()
    assert op["op"] == "Sleep"
    assert datetime.fromisoformat(op["name"]) < datetime.now(UTC) + timedelta(days=301)


def test_a_function_invoked_by_hand_becomes_a_run(dev: tuple[Side, str]) -> None:
    """The dashboard's "Invoke" adds data of its own to what was typed in, as recorded."""
    on, url = dev
    decide_by(Fixed("rq"))
    own = {"correlation_id": "", "expire": 0, "fn_id": "switchyard-child", "gid": "", "name": ""}
    answer = requests.post(
        f"{url}{PATH}",
        data=a_call("inngest/function.invoked", {"name": "by hand", "_inngest": own}),
        timeout=PATIENCE_SECONDS,
    )
    assert answer.status_code == 200, answer.text
    (row,) = runs_of(on, "child")
    assert (row.key, row.backend, "_inngest" in row.payload) == ("e", "rq", False)


def test_what_is_no_call_is_the_callers_fault(dev: tuple[Side, str]) -> None:
    _, url = dev
    halves = (b"", b'{"ctx": {"a', b"[]", b"\xff\xfe", b"[" * 9999, b"{}")
    for body in (*halves, b'{"ctx": 1, "event": {}, "steps": {}}'):
        answer = requests.post(f"{url}{PATH}", data=body, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 400, body
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_time_that_no_calendar_has_is_not_looked_at(dev: tuple[Side, str]) -> None:
    on, url = dev
    on.backend = "rq"  # nobody performs it there: only this call does
    run = on.dispatch("child", {"name": uuid4().hex})
    body = a_call("test.child", {"_switchyard": {"run": run.id, "epoch": 1}})
    late = body.replace(b'"ts":1', b'"ts":1' + b"0" * 400)
    answer = requests.post(f"{url}{PATH}", data=late, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 206, answer.text


def test_a_second_call_of_a_step_waits_and_costs_no_attempt(
    dev: tuple[Side, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inngest's server does so after a restart: it calls again while the first call goes on."""
    on, url = dev
    n = uuid4().hex
    released = threading.Event()
    held = SimpleNamespace(sleep=lambda _: released.wait(PATIENCE_SECONDS))
    monkeypatch.setattr(jobs, "time", held)
    on.backend = "rq"  # nobody carries it there: only calls of ours do
    run = on.dispatch("slow", {"name": n})
    body = a_call("test.slow", {"_switchyard": {"run": run.id, "epoch": 1}})
    path = f"{url}/api/inngest?fnId=switchyard-slow&stepId=step"
    first: list[Any] = []

    def call() -> requests.Response:
        return requests.post(path, data=body, timeout=PATIENCE_SECONDS)

    slow = threading.Thread(target=lambda: first.append(call()))
    slow.start()
    until(lambda: on.touches(n))
    asked = datetime.now(UTC)
    second = call()
    released.set()
    slow.join()
    assert second.status_code == 206, second.text
    (op,) = second.json()
    assert op["op"] == "Sleep"
    assert datetime.fromisoformat(op["name"]) > asked - timedelta(seconds=1)
    assert (first[0].status_code, [o["op"] for o in first[0].json()]) == (206, ["StepRun"])
    assert (on.touches(n), on.marks(n)) == (1, {n: 1})


def test_a_sleep_wakes_when_the_run_is_due(
    opened: ExitStack, tmp_path: Path, redis_url: str
) -> None:
    """Inngest sleeps the nearest whole second: woken too early, a run would fail an attempt."""
    patient = {"CHECK_SECONDS": "5"}  # a sleep is up to a second longer
    on, _ = serving(opened, tmp_path, redis_url, signed=False, gap_scale=1.0, **patient)
    n = uuid4().hex
    on.finish(on.dispatch("sleeper", {"name": n, "waitSeconds": 0.4}))
    # A step, the sleep, a step, the end.
    assert [run["calls"] for run in calls_of(on, "sleeper")] == [4]
    assert on.marks(n) == {f"{n}/before": 1, f"{n}/after": 1}


def test_an_event_from_elsewhere_becomes_a_run_or_fails_clearly(
    dev: tuple[Side, str], caplog: pytest.LogCaptureFixture
) -> None:
    """So does an event of a job of QStash's."""
    caplog.set_level("INFO")  # as the processes log
    on, _ = dev
    decide_by(Fixed("inngest"))
    n = uuid4().hex
    event = {"name": "test.child", "data": {"name": n}, "id": f"hand-{n}"}
    assert send(on, event).status_code == 200
    (row,) = until(lambda: [r for r in runs_of(on, "child") if r.check_at is None])
    assert (row.key, row.backend, row.status) == (f"hand-{n}", "inngest", "succeeded")
    assert on.marks(n) == {n: 1}
    ended_there(on, "child", 2)
    # The same intent by dispatch() is the same run.
    assert on.dispatch("child", {"name": n}, key=f"hand-{n}").created is False
    decide_by(Fixed("rq"))
    send(on, {"name": "test.posted", "data": {"name": "straight"}, "id": "e-posted"})
    (posted,) = until(lambda: runs_of(on, "posted"))
    assert (posted.key, posted.backend) == ("e-posted", "rq")
    send(on, {"name": "test.child", "data": {"colour": "red"}})
    failed = until(lambda: [r for r in calls_of(on, "child") if r["status"] == "Failed"])
    assert "name: Field required" in json.dumps(failed)
    assert [r.id for r in runs_of(on, "child")] == [row.id]

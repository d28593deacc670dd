"""The Inngest stand-in's rules on time, as measured at the real server: no threads, no HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.local.inngest import events
from app.local.inngest.engine import Engine
from app.local.inngest.functions import Function, parse_registration
from app.local.inngest.history import History
from app.local.inngest.runs import Call
from app.local.inngest.wire import Answer, Step, problem, read_answer
from tests.local.test_inngest_shapes import a_registration

NOW = 1_900_000_000.5
SDK = {"x-inngest-sdk": "inngest-py:v0.5.19", "x-inngest-req-version": "2"}


def made(**change: Any) -> Engine:
    """An engine with one function."""
    given: dict[str, Any] = {
        "id": "app-x",
        "uuid": "u",
        "url": "http://localhost:1/?fnId=app-x&stepId=step",
        "attempts": 4,
        "events": ("demo.x",),
        "crons": (),
        "limit": None,
    }
    engine = Engine()
    engine.register("app", [Function(**(given | change))], NOW)
    return engine


def send(engine: Engine, now: float = NOW, **more: Any) -> None:
    event = {"name": "demo.x", "data": {}, "id": "e", "ts": int(now * 1000), **more}
    engine.receive(events.Event(f"internal-{now}-{more}", event), now)


def started(engine: Engine) -> Call:
    send(engine)
    (call,) = engine.take_due(NOW)
    return call


def next_call(engine: Engine, low: float, high: float) -> Call:
    """The one call that comes within these seconds, and not before."""
    assert engine.take_due(NOW + low - 0.001) == []
    (call,) = engine.take_due(NOW + high)
    return call


def step(op: Any, number: int = 0, **more: Any) -> Answer:
    """The answer with one step."""
    return Answer(step=Step(id=f"{number:040x}", op=op, **more))


def test_the_gaps_between_attempts_grow() -> None:
    engine, now = made(), NOW
    call = started(engine)
    for gap in (31, 47, 75):
        engine.answer(call, Answer(error=problem("no")), now)
        assert engine.take_due(now + 0.9 * gap - 0.001) == []
        now += 1.1 * gap
        (call,) = engine.take_due(now)
    assert call.body["ctx"]["attempt"] == 3
    engine.answer(call, Answer(error=problem("the last")), now)
    (run,) = engine.runs.values()
    assert (run.status, run.output["message"], run.calls) == ("Failed", "the last", 4)


@pytest.mark.parametrize(
    ("ahead", "at"), [(-3.0, 0.5), (0.0, 0.5), (0.4, 0.5), (0.99, 0.5), (5.25, 5.25)]
)
def test_a_retry_after_below_a_second_is_the_next_full_one(ahead: float, at: float) -> None:
    engine = made()
    engine.answer(started(engine), Answer(error=problem("no"), retry_at=NOW + ahead), NOW)
    next_call(engine, at, at)


@pytest.mark.parametrize(("ahead", "slept"), [(-5.0, 0), (0.45, 0), (0.55, 1), (2.45, 2)])
def test_a_sleep_is_rounded_to_whole_seconds(ahead: float, slept: int) -> None:
    engine = made()
    wake = Answer(step=Step(id="0" * 40, op="Sleep"), wake_at=NOW + ahead)
    engine.answer(started(engine), wake, NOW)
    assert next_call(engine, slept, slept).body["steps"] == {"0" * 40: None}


def test_a_sleep_of_more_than_a_year_fails_the_run() -> None:
    for days, status in ((364, "Running"), (366, "Failed")):
        engine = made()
        wake = Answer(step=Step(id="0" * 40, op="Sleep"), wake_at=NOW + days * 86_400)
        engine.answer(started(engine), wake, NOW)
        assert [run.status for run in engine.runs.values()] == [status]


@pytest.mark.parametrize(("data", "steps"), [("x", 1000), ("x" * 3_500_000, 10)])
def test_a_run_has_as_many_steps_and_as_much_of_a_state(data: str, steps: int) -> None:
    engine = made()
    call = started(engine)
    for number in range(steps - 1):
        engine.answer(call, step("StepRun", number, data=data), NOW)
        (call,) = engine.take_due(NOW)
    engine.answer(call, step("StepRun", steps, data=data), NOW)
    (run,) = engine.runs.values()
    assert (run.status, engine.take_due(NOW)) == ("Failed", [])


def test_an_event_id_starts_nothing_twice_for_24_hours() -> None:
    engine = made()
    for hours, runs in ((0, 1), (0, 1), (23.9, 1), (24.1, 2)):
        send(engine, NOW + hours * 3600)
        assert len(engine.runs) == runs


def test_concurrency_counts_the_steps_under_way() -> None:
    engine = made(limit=2)
    for number in range(5):
        send(engine, id=f"e{number}")
    first = engine.take_due(NOW)
    assert (len(first), engine.take_due(NOW)) == (2, [])
    # A sleeping run takes no slot.
    wake = Answer(step=Step(id="0" * 40, op="Sleep"), wake_at=NOW + 60)
    engine.answer(first[0], wake, NOW)
    assert len(engine.take_due(NOW)) == 1


def test_a_cron_ticks_in_utc_and_while_it_is_registered() -> None:
    engine = made(crons=("TZ=UTC 0 9 1,15 * *",))
    for day in (1, 15):
        at = engine._timers[0][0]
        assert f"{datetime.fromtimestamp(at, UTC):%d %H:%M}" == f"{day:02d} 09:00"
        assert len(engine.take_due(at)) == 1
    engine.register("app", [], NOW)
    assert engine.take_due(NOW + 90 * 86_400) == []


STEP = {"id": "0" * 40, "op": "StepRun", "data": 1}


@pytest.mark.parametrize(
    ("status", "headers", "value", "reason", "no_retry"),
    [
        (200, {}, "1", "not the SDK", False),
        (503, {}, "busy", "not the SDK", False),
        (302, {"location": "/"}, "", "not the SDK", False),
        (200, SDK, "NaN", "not JSON", False),
        (200, SDK, "<html>", "invalid answer", False),
        (200, SDK, '"' + "x" * 4 * 1024 * 1024 + '"', "above 4194304 bytes", False),
        (201, SDK, "1", "status code: 201", False),
        (401, SDK, '{"message": "Unauthorized"}', "Unauthorized", False),
        (500, SDK | {"x-inngest-no-retry": "true"}, '{"message": "never"}', "never", True),
        (206, SDK, [], "at least 1 item", False),
        (206, SDK, [STEP | {"op": "Unheard"}], "Input should be", False),
        (206, SDK, [STEP | {"data": "\ud800"}], "with JCS", True),
        (206, SDK, [STEP | {"data": 10**400}], "with JCS", True),
        (206, SDK, [{"op": "StepRun"}], "id", False),
        (206, SDK, [STEP | {"id": "short"}], "id", False),
        (206, SDK, [STEP | {"op": "StepError"}], "without an error", False),
        (206, SDK, [STEP | {"op": "Sleep", "name": "soon"}], "soon", False),
        (206, SDK, [STEP | {"op": "Sleep", "name": "2030-01-01T00:00:00"}], "no time zone", False),
        (206, SDK, [STEP | {"op": "StepPlanned"}] * 2, "does not do StepPlanned", True),
        (206, SDK, [STEP | {"op": "WaitForEvent"}], "does not do WaitForEvent", True),
        (206, SDK, [STEP | {"op": "InvokeFunction"}], "does not do InvokeFunction", True),
    ],
)
def test_a_wrong_answer_is_a_failed_attempt(
    status: int, headers: dict[str, str], value: Any, reason: str, no_retry: bool
) -> None:
    body = value if isinstance(value, str) else json.dumps(value)
    answer = read_answer(status, headers, body.encode())
    assert answer.error is not None
    assert reason in answer.error["message"]
    assert answer.no_retry is no_retry


def test_after_an_app_that_cannot_be_reached_it_waits_longer() -> None:
    engine = made()
    call = started(engine)
    engine.answer(call, Answer(error=problem("no"), unreached=True), NOW)
    next_call(engine, 15, 45)


def test_a_restart_keeps_the_history_and_loses_the_queue(tmp_path: Path) -> None:
    """A real server without Redis does the same."""
    file = str(tmp_path / "inngest.db")
    history = History(file)
    engine = Engine(history=history)
    history.save_app("app", a_registration())
    engine.register(*parse_registration(a_registration()), NOW)
    engine.answer(started(engine), step("StepRun", data=1), NOW)
    history.close()
    engine = Engine(history=History(file))
    engine.resume(NOW)
    (run,) = engine.runs.values()
    assert (run.ended, list(run.steps.values())) == (False, [{"data": 1}])
    assert list(engine.runs_of_event) == [run.event.id]
    assert engine.take_due(NOW + 3600) == []
    send(engine, id="after")
    assert len(engine.take_due(NOW)) == 1


def test_a_step_is_tried_by_itself_and_reported_once() -> None:
    engine = made(attempts=2)
    failed = step("StepError", error={"message": "no"})
    engine.answer(started(engine), failed, NOW)
    call = next_call(engine, 0.9 * 31, 1.1 * 31)
    assert (call.body["ctx"]["attempt"], call.body["steps"]) == (1, {})
    engine.answer(call, failed, NOW + 35)
    (call,) = engine.take_due(NOW + 35)
    assert (call.body["ctx"]["attempt"], list(call.body["steps"].values())) == (
        *(0, [{"error": {"message": "no"}}]),
    )
    engine.answer(call, failed, NOW + 35)  # it is finished, and must not come again
    assert engine.take_due(NOW + 35) == []

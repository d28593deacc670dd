"""What every backend promises for a run: each step once, the same attempts, the same results."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

import flags
from app.switchyard import runtime
from app.switchyard.dispatch import Item, dispatch
from app.switchyard.errors import BadInput, KeyConflict, PayloadInvalid, UnknownJob
from app.switchyard.runs.store import Run, new_run, write_runs
from tests.support import jobs
from tests.support.marks import most_at_once, processes, stays
from tests.support.sides import Fixed, Side, decide_by, rq_worker


def name() -> str:
    return f"n{uuid4().hex[:8]}"


def result(row: object) -> object:
    return json.loads(row.result)  # type: ignore[attr-defined]


def failed_at(on: Side, row: Any) -> list[tuple[str | None, int]]:
    """Step and number of each attempt that is on record as failed."""
    return [(one.step, one.attempt) for one in on.failures(row.id)]


def test_a_run_is_recorded_and_done(on: Side) -> None:
    run = on.dispatch("noop", {"name": name()})
    assert (run.created, run.status, run.backend) == (True, "pending", on.backend)
    (row,) = on.finish(run)
    assert (row.status, row.error, row.holder) == ("succeeded", None, None)
    assert row.created_at <= row.started_at <= row.ended_at
    assert on.failures(run.id) == []


def test_a_body_finds_its_app_and_nothing_of_another_slice(on: Side) -> None:
    if on.backend == "memory":
        pytest.skip("it is performed by the test itself, which has no app")
    (row,) = on.finish(on.dispatch("surroundings", {"name": name()}))
    assert row.error is None
    assert result(row) == ["app", True]


def test_a_run_says_who_it_is_and_how_far(on: Side) -> None:
    run = on.dispatch("reporter", {"name": name()}, key=(key := name()))
    (row,) = on.finish(run)
    assert result(row) == [run.id, key, "reporter", on.backend, 2, 1]
    said = json.loads(row.progress)
    at = datetime.fromisoformat(said.pop("at"))
    assert said == {"n": 2, "of": 2, "text": "try 2"}
    assert row.started_at <= at <= row.ended_at


def test_five_steps_each_once(on: Side) -> None:
    n = name()
    (row,) = on.finish(on.dispatch("five-steps", {"name": n}))
    assert result(row) == [f"{n}/{i}" for i in range(1, 6)]
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(1, 6)}


def test_a_failing_step_is_retried_and_the_ones_before_are_not(on: Side) -> None:
    n = name()
    run = on.dispatch("five-steps", {"name": n, "failAt": 3, "failures": 2})
    (row,) = on.finish(run)
    assert row.status == "succeeded"
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(1, 6)}
    steps = on.steps(run.id)
    assert {step: r.attempts for step, r in steps.items()} == {
        "step 1": 1,
        "step 2": 1,
        "step 3": 3,
        "step 4": 1,
        "step 5": 1,
    }
    assert on.touches(f"{n}/3") == 3


def test_attempts_are_used_up_and_counted_alike(on: Side) -> None:
    n = name()
    run = on.dispatch("hopeless", {"name": n})
    (row,) = on.finish(run)
    assert (row.status, row.error) == ("failed", "step fail: RuntimeError: always")
    assert on.touches(n) == 3
    assert on.steps(run.id)["fail"].attempts == 3
    assert failed_at(on, row) == [("fail", 1), ("fail", 2), ("fail", 3)]


def test_what_cannot_be_helped_is_not_retried(on: Side) -> None:
    n = name()
    (row,) = on.finish(on.dispatch("refuser", {"name": n}))
    assert (row.status, on.touches(n)) == ("failed", 1)
    assert "never" in row.error
    assert failed_at(on, row) == [("refuse", 1)]


def test_a_body_may_go_on_after_a_failed_step(on: Side) -> None:
    n = name()
    (row,) = on.finish(on.dispatch("catcher", {"name": n}))
    assert (row.status, result(row)) == ("succeeded", f"{n}/fail")
    assert (on.touches(n), on.marks(n)) == (2, {f"{n}/fail": 1})
    assert failed_at(on, row) == [("fail", 1), ("fail", 2)]


def test_retry_after_is_honoured(on: Side) -> None:
    n = name()
    run = on.dispatch("later", {"name": n, "waitSeconds": 0.9})
    (row,) = on.finish(run)
    assert row.status == "succeeded"
    assert row.ended_at - row.created_at >= timedelta(seconds=0.9)
    assert on.marks(n) == {n: 1}


def test_a_body_without_steps_is_retried(on: Side) -> None:
    n = name()
    (row,) = on.finish(on.dispatch("no-steps", {"name": n, "failures": 2}))
    assert (row.status, on.touches(n)) == ("succeeded", 3)
    assert failed_at(on, row) == [(None, 1), (None, 2)]
    assert all(one.traceback for one in on.failures(row.id))


def test_a_result_that_is_not_json_fails_clearly(on: Side) -> None:
    (row,) = on.finish(on.dispatch("not-json", {"name": name()}))
    assert row.status == "failed"
    assert "not JSON" in row.error
    assert failed_at(on, row) == [("object", 1)]


def test_a_sleep_is_not_cut_short(on: Side) -> None:
    n = name()
    run = on.dispatch("sleeper", {"name": n, "waitSeconds": 0.8})
    (row,) = on.finish(run)
    steps = on.steps(run.id)
    slept = steps["after"].updated_at - steps["before"].updated_at
    assert (row.status, slept >= timedelta(seconds=0.8)) == ("succeeded", True)
    assert on.marks(n) == {f"{n}/before": 1, f"{n}/after": 1}


def test_a_delayed_run_waits_for_its_time(on: Side) -> None:
    n = name()
    run = on.dispatch("child", {"name": n}, delay=0.8)
    (row,) = on.finish(run)
    assert row.started_at >= row.due_at == row.created_at + timedelta(seconds=0.8)
    assert on.marks(n) == {n: 1}


def test_children_follow_their_parent_and_are_waited_for(on: Side) -> None:
    n = name()
    run = on.dispatch("parent", {"name": n, "children": 7})
    (row,) = on.finish(run)
    assert (row.status, result(row)) == ("succeeded", {"succeeded": 7})
    children = on.children(run.id)
    assert {(c.backend, c.reason) for c in children} == {(on.backend, "PARENT")}
    assert len(children) == 7
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(7)} | {f"{n}/after": 1}


def test_no_children_is_no_children(on: Side) -> None:
    n = name()
    (row,) = on.finish(on.dispatch("parent", {"name": n, "children": 0}))
    assert (row.status, result(row), on.marks(n)) == ("succeeded", {}, {f"{n}/after": 1})


def test_the_same_key_is_the_same_run(on: Side) -> None:
    n = name()
    first = on.dispatch("child", {"name": n}, key=n)
    again = on.dispatch("child", {"name": n}, key=n)
    assert (again.id, again.created) == (first.id, False)
    on.finish(first)
    late = on.dispatch("child", {"name": n}, key=n)
    assert (late.id, late.created, late.status) == (first.id, False, "succeeded")
    on.settle(0.3)
    assert on.marks(n) == {n: 1}


def test_a_key_stands_for_one_payload(on: Side) -> None:
    n = name()
    run = on.dispatch("noop", {"name": n}, key=n)
    with pytest.raises(KeyConflict, match=run.id):
        on.dispatch("noop", {"name": n + "x"}, key=n)
    # A default spelled out is the same payload, and so is the other spelling of a field.
    same = on.dispatch("noop", {"name": n, "fail_at": 0, "children": 3}, key=n)
    assert same.id == run.id


def test_a_key_of_the_payload_s_own(on: Side) -> None:
    n = name()
    first = on.dispatch("keyed", {"name": n})
    assert (first.key, on.dispatch("keyed", {"name": n}).id) == (n, first.id)


def test_two_intents_without_a_key_are_two_runs(on: Side) -> None:
    n = name()
    runs = [on.dispatch("child", {"name": n}) for _ in range(2)]
    on.finish(*runs)
    assert on.marks(n) == {n: 2}


def test_one_key_from_many_threads_is_one_run(on: Side) -> None:
    n = name()
    runtime.install(on.runtime)
    decide_by(Fixed(on.backend))
    barrier = threading.Barrier(8)
    runs: list[Run] = []

    def intend() -> None:
        barrier.wait()
        runs.append(dispatch("child", {"name": n}, key=n))

    threads = [threading.Thread(target=intend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 8
    assert (len({run.id for run in runs}), sum(run.created for run in runs)) == (1, 1)
    on.finish(runs[0])
    on.settle(0.3)
    assert on.marks(n) == {n: 1}


def test_many_at_once(on: Side) -> None:
    n = name()
    known = on.dispatch("child", {"name": f"{n}/3"}, key=f"{n}/3")
    items = [Item({"name": f"{n}/{i}"}, key=f"{n}/{i}") for i in range(60)]
    runs = on.dispatch_many("child", items)
    assert [run.key for run in runs] == [f"{n}/{i}" for i in range(60)]
    assert [run.id for run in runs if not run.created] == [known.id]
    on.finish(*runs)
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(60)}


def test_sent_again_and_again_it_is_done_once(on: Side) -> None:
    n = name()
    run = on.dispatch("five-steps", {"name": n})
    for _ in range(5):
        on.runtime.store.send([run.id])
    on.finish(run)
    on.runtime.store.send([run.id])
    on.settle(0.5)
    assert on.marks(n) == {f"{n}/{i}": 1 for i in range(1, 6)}


def test_recorded_and_never_sent_it_is_sent_by_the_relay(on: Side) -> None:
    n = name()
    store = on.runtime.store
    spec = store.catalogue["child"]
    new = new_run(spec, {"name": n}, None, store.clock())
    decision = flags.Decision(on.backend, "STATIC", "live", 1)
    with store.db.autocommit() as connection:
        (run,) = write_runs(connection, store, spec, [(new, decision)], store.clock())
    (row,) = on.finish(run)
    assert (row.status, on.marks(n)) == ("succeeded", {n: 1})


def test_bad_input_writes_nothing(on: Side) -> None:
    n = name()
    with pytest.raises(UnknownJob):
        on.dispatch("no-such-job", {"name": n})
    with pytest.raises(PayloadInvalid, match="name"):
        on.dispatch("noop", {})
    with pytest.raises(PayloadInvalid, match="colour"):
        on.dispatch("noop", {"name": n, "colour": "red"}, key=n)
    with pytest.raises(BadInput, match="delay"):
        on.dispatch("noop", {"name": n}, key=n, delay=-1)
    for delay in (float("nan"), float("inf"), 1e12, timedelta.max):
        with pytest.raises(BadInput, match="delay"):
            on.dispatch("noop", {"name": n}, key=n, delay=delay)
    with pytest.raises(BadInput, match="time"):
        on.dispatch("noop", {"name": n}, key=n, at=datetime.max.replace(tzinfo=UTC))
    with pytest.raises(BadInput):
        on.dispatch("noop", {"name": n}, key="")
    with pytest.raises(KeyConflict):
        on.dispatch_many(
            "noop", [Item({"name": n}, key=n + "1"), *[Item({"name": x}, key=n) for x in "ab"]]
        )
    assert on.dispatch("noop", {"name": n}, key=n + "1").created


@contextmanager
def more_hands(on: Side, folder: Path) -> Iterator[None]:
    """Two more who carry runs; Inngest's side answers as many calls at once as there are."""
    with ExitStack() as stack:
        if on.backend == "rq":
            for number in (2, 3):
                stack.enter_context(rq_worker(on.environ, folder / f"worker-{number}.log"))
            hello = name()
            while len(processes(on.runtime.db, hello)) < 3:  # all are at work
                on.finish(*(on.dispatch("child", {"name": hello}) for _ in range(3)))
        memory, stop = on.memory, threading.Event()
        if memory is not None:

            def work() -> None:
                while not stop.wait(0.01):
                    memory.work(on.runtime.engine, limit=1)

            for _ in range(2):
                thread = threading.Thread(target=work)
                thread.start()
                stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def test_never_more_at_once_than_the_cap(on: Side, tmp_path: Path) -> None:
    n = name()
    with more_hands(on, tmp_path):
        items = [{"name": f"{n}/{i}", "waitSeconds": 0.1} for i in range(8)]
        rows = on.finish(*on.dispatch_many("capped", items))
    assert {(row.status, row.slot) for row in rows} == {("succeeded", None)}
    inside = stays(on.runtime.db, n)
    assert sorted(stay.what for stay in inside) == [
        f"{n}/{i}/{s}" for i in range(8) for s in (1, 2)
    ]
    assert 0 < most_at_once(inside) <= jobs.CAP


def test_joining_a_transaction(on: Side) -> None:
    n = name()
    runtime.install(on.runtime)
    decide_by(Fixed(on.backend))
    with Session(on.runtime.db.engine) as session:
        dispatch("child", {"name": f"{n}/rolled back"}, session=session)
        session.rollback()
        kept = dispatch("child", {"name": f"{n}/kept"}, session=session)
        savepoint = session.begin_nested()
        dispatch("child", {"name": f"{n}/undone"}, session=session)
        savepoint.rollback()
        assert kept.created
        session.commit()
    on.finish(kept)
    on.settle(0.3)
    assert on.marks(n) == {f"{n}/kept": 1}

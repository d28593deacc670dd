"""Kill -9 at every named point, on both backends and databases: each effect happens once.

The points are found in the source, so that a new one is covered without being listed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from app.switchyard.runs.create import Run
from app.switchyard.runs.handoff import hand_over
from tests.support.forks import forked
from tests.support.sides import (
    ROOT,
    Side,
    environment,
    free_port,
    fresh,
    relaying,
    rq_worker,
    web,
)
from tests.support.standins import InngestStandIn
from tests.support.waiting import until

POINTS = sorted(
    {
        name
        for path in (ROOT / "app").rglob("*.py")
        for name in re.findall(r'\bpoint\("([\w.-]+)"\)', path.read_text())
    }
)
ELSEWHERE = ("dispatch.", "payout.", "handover.")
"""Tried below, and in test_payout_crashes and test_drain."""
NOT_THERE = "the process did not reach its crash point"
WORKER_POINTS = [name for name in POINTS if not name.startswith(ELSEWHERE)]
DISPATCH = """
import sys
from app import create_app
from app.switchyard.dispatch import dispatch
create_app()
dispatch("grab-bag", {"name": sys.argv[1]}, key=sys.argv[1])
"""


def test_the_points_are_found() -> None:
    assert {"dispatch.committed", "run.claimed", "step.uncommitted", "run.ended"} <= set(POINTS)


def expected(n: str) -> dict[str, int]:
    return {f"{n}/first": 1, f"{n}/0": 1, f"{n}/1": 1, f"{n}/last": 1}


def run_of(on: Side, key: str) -> Run:
    return on.dispatch("grab-bag", {"name": key}, key=key)


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_an_rq_worker_dies(point: str, database_url: str, redis_url: str, tmp_path: Path) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        environ = environment(database_url, redis_url, LEASE_SECONDS="1", CHECK_SECONDS="0.3")
        runtime = fresh(database_url, environ, None)
        stack.callback(runtime.db.dispose)
        stack.enter_context(relaying(runtime))
        on = Side("rq", runtime, environ)
        # Told to move to where it is not (nobody serves Inngest here), it is moved back below.
        moves = {"moves": {1: "inngest"}} if point == "run.moved" else {}
        run = on.dispatch("grab-bag", {"name": n, **moves})
        crashing = {**environ, "SWITCHYARD_CRASH_AT": point}
        with rq_worker(crashing, tmp_path / "dying.log") as worker:
            until(lambda: worker.poll() is not None, NOT_THERE)
        stack.enter_context(rq_worker(environ, tmp_path / "worker.log"))
        if moves:
            hand_over(runtime.store, [run.id], "rq")
        (row,) = on.finish(run)
        assert row.status == "succeeded"
        assert on.marks(n) == expected(n)
        assert on.touches(f"{n}/once") <= 1


@pytest.mark.parametrize("point", [p for p in WORKER_POINTS if p != "run.moved"])
def test_a_web_process_of_inngest_dies(
    point: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    n = uuid4().hex
    with ExitStack() as stack:
        port = free_port()
        standin = InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"], gap_scale=0.02)
        stack.enter_context(standin)
        more = {"INNGEST_DEV": standin.url, "LEASE_SECONDS": "1", "CHECK_SECONDS": "0.3"}
        environ = environment(database_url, redis_url, **more)
        runtime = fresh(database_url, environ, None)
        stack.callback(runtime.db.dispose)
        stack.enter_context(relaying(runtime))
        on = Side("inngest", runtime, environ, standin=standin)
        run = on.dispatch("grab-bag", {"name": n})
        crashing = {**environ, "SWITCHYARD_CRASH_AT": point}
        log = tmp_path / "dying.log"
        with web(crashing, port, log):
            # gunicorn starts a new worker for each that dies: it dies at the point every time.
            until(lambda: b"SIGKILL" in log.read_bytes(), NOT_THERE)
        stack.enter_context(web(environ, port, tmp_path / "web.log"))
        (row,) = on.finish(run)
        assert row.status == "succeeded"
        assert on.marks(n) == expected(n)
        assert on.touches(f"{n}/once") <= 1


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("dispatch.")])
def test_the_dispatching_process_dies(
    point: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    n = uuid4().hex
    environ = environment(database_url, redis_url, LEASE_SECONDS="1", CHECK_SECONDS="0.3")
    runtime = fresh(database_url, environ, None)
    try:
        crashing = {**environ, "SWITCHYARD_CRASH_AT": point}
        died = forked(["-c", DISPATCH, n], crashing)
        assert died.returncode == -9, died.stderr
        with relaying(runtime), rq_worker(environ, tmp_path / "worker.log"):
            on = Side("rq", runtime, environ)
            run = run_of(on, n)
            assert not run.created
            (row,) = on.finish(run)
            assert (row.status, on.marks(n)) == ("succeeded", expected(n))
    finally:
        runtime.db.dispose()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_inngest_restarts_and_loses_all_it_had(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """In flight, delayed and asleep: the relay finds what Inngest no longer has."""
    n = uuid4().hex
    with ExitStack() as stack:
        port, inngest_port = free_port(), free_port()
        apps = [f"http://127.0.0.1:{port}/api/inngest"]
        first = InngestStandIn(apps, gap_scale=0.02)
        more = {"INNGEST_DEV": first.start(inngest_port), "CHECK_SECONDS": "0.3"}
        environ = environment(database_url, redis_url, **more)
        runtime = fresh(database_url, environ, None)
        stack.callback(runtime.db.dispose)
        stack.enter_context(relaying(runtime))
        stack.enter_context(web(environ, port, tmp_path / "web.log"))
        on = Side("inngest", runtime, environ)
        asleep = on.dispatch("sleeper", {"name": f"{n}/asleep", "waitSeconds": 2})
        delayed = on.dispatch("child", {"name": f"{n}/delayed"}, delay=2)
        while "nap" not in on.steps(asleep.id):
            on.settle(0.05)
        slow = on.dispatch("slow", {"name": f"{n}/slow", "waitSeconds": 1})
        while on.touches(f"{n}/slow") == 0:
            on.settle(0.05)
        first.stop()
        while_away = on.dispatch("child", {"name": f"{n}/away"})
        assert on.row(while_away.id).status == "pending"
        again = InngestStandIn(apps, gap_scale=0.02)
        again.start(inngest_port)
        stack.callback(again.stop)
        on.finish(asleep, delayed, slow, while_away)
        assert on.marks(n) == {
            f"{n}/asleep/before": 1,
            f"{n}/asleep/after": 1,
            f"{n}/delayed": 1,
            f"{n}/slow": 1,
            f"{n}/slow/after": 1,
            f"{n}/away": 1,
        }


def test_nothing_is_wired_by_accident() -> None:
    """Importing the jobs loads neither queue's library."""
    code = "import app.platform.payouts.jobs, sys; assert not {'rq', 'inngest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

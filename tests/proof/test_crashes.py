"""Kill -9 at every named point, on both backends and databases: each effect happens once.

The points are found in the source, so that a new one is covered without being listed.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.store import Run
from tests.conftest import new_database
from tests.support.dying import PLACES, deaths, dying, mortal
from tests.support.forks import forked
from tests.support.machine import effects_of
from tests.support.sides import (
    ROOT,
    Side,
    environment,
    fresh,
    relaying,
    rq_worker,
)
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
    return dict.fromkeys(effects_of("grab-bag", n), 1)


def run_of(on: Side, key: str) -> Run:
    return on.dispatch("grab-bag", {"name": key}, key=key)


@pytest.mark.minutes
@pytest.mark.parametrize(("backend", "database"), PLACES)
def test_whoever_performs_it_dies_at_every_point(
    backend: str, database: str, request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
) -> None:
    names = [uuid4().hex for _ in range(3)]
    with ExitStack() as stack:
        url = stack.enter_context(new_database(database, tmp_path, request))
        on = stack.enter_context(mortal(backend, url, redis_url, tmp_path))
        stack.enter_context(dying(on, tmp_path / "dying.log"))
        # Who died as its step began has left it unknown: the second run gets to its end.
        rows = [on.finish(on.dispatch("grab-bag", {"name": n}))[0] for n in names[:2]]
        # Nobody performs the other backend's runs: what was asked to go there is brought back.
        other = "inngest" if backend == "rq" else "rq"
        moving = on.dispatch("grab-bag", {"name": names[2], "moves": {1: other}})

        def brought_back() -> bool:
            rows.append(on.row(moving.id))
            if rows[-1].backend == other:
                hand_over(on.runtime.store, [moving.id], backend)
            return rows[-1].check_at is None

        until(brought_back)
        assert {row.status for row in (*rows[:2], rows[-1])} == {"succeeded"}
        assert {mark.partition("@")[0] for mark in deaths(on)} >= set(WORKER_POINTS)
        for n in names:
            assert on.marks(n) == expected(n)
            assert on.touches(f"{n}/once") <= 1


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("dispatch.")])
def test_the_dispatching_process_dies(
    point: str, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    n = uuid4().hex
    environ = environment(database_url, redis_url, LEASE_SECONDS="1", CHECK_SECONDS="0.3")
    runtime = fresh(environ)
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

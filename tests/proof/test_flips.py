"""A thousand flips under load: nothing lost, nothing doubled, and seen by every process in time."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import flags
from app.switchyard.audit import By
from app.switchyard.cutover import stages
from app.switchyard.cutover.drain import SEEN_SECONDS, Drain, rollback
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.store import Run
from flags import Side
from tests.support.forks import Forked
from tests.support.sides import both, decide_by
from tests.support.waiting import until

FLIPS = 1000
MOST_RUNS = 400
WATCHERS = 3
WATCH = """
import sys, time, flags
from app import create_app
create_app()
print("ready", flush=True)
last = None
while True:
    began = time.monotonic()
    seen = flags.decide("child", "k").version
    if last is not None and seen != last[1]:
        print(last[0], last[1], flush=True)
    last = (began, seen)
    time.sleep(0.01)
"""


@pytest.mark.minutes
@pytest.mark.timeout(400)
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_thousand_flips_under_load(database_url: str, redis_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        on = stack.enter_context(both(database_url, redis_url, tmp_path))
        runtime = on.runtime
        switched = {**on.environ, "USE_INNGEST": "true"}
        load = lambda: stages.current_stages(runtime.db)  # noqa: E731
        decide_by(flags.Flags(load, lambda _: "inngest", environ=switched))
        watchers = [watcher(stack, switched, tmp_path / f"watch-{n}") for n in range(WATCHERS)]
        for _, log in watchers:
            until(lambda log=log: "ready" in log.read_text())  # type: ignore[misc]
        runs: list[Run] = []
        over = threading.Event()

        def work() -> None:
            sides = set[str]()
            while not over.wait(0.01):
                if len(runs) < MOST_RUNS or len(sides) < 2:
                    runs.append(dispatch("child", {"name": f"n{len(runs)}"}))
                    sides.add(runs[-1].backend)

        loader = threading.Thread(target=work)
        loader.start()
        committed: dict[int, float] = {}
        for number in range(FLIPS):
            change = flip(runtime, "live" if number % 2 == 0 else "legacy")
            committed[change.id] = time.monotonic()
            # The last two stay long enough to be seen by whoever dispatches: each side gets some.
            time.sleep(2 * SEEN_SECONDS if number >= FLIPS - 2 else 0.008)
        over.set()
        loader.join()
        time.sleep(2 * SEEN_SECONDS)
        work_back = Drain(runtime, None, Side.RQ, True, 60.0, threading.Event())
        flip(runtime, "live")
        assert not rollback(["child"], work_back, By("test", "the end")).left
        time.sleep(SEEN_SECONDS)
        rows = on.finish(*runs, patience_seconds=120.0)
        assert {row.status for row in rows} == {"succeeded"}
        assert on.marks("n") == {f"n{number}": 1 for number in range(len(runs))}
        assert {run.backend for run in runs} == {"rq", "inngest"}
        for process, log in watchers:
            process.terminate()
            old = [line.split() for line in log.read_text().splitlines() if line[0].isdigit()]
            assert len(old) > 3, "it saw hardly any flip"
            for began, version in old:
                # Whoever asks a second after a flip has its answer from after it.
                follows = [at for id_, at in committed.items() if id_ > int(version)]
                assert float(began) < min(follows, default=float("inf")) + 1.0


def flip(runtime: Any, stage: str) -> stages.StageChange:
    now = runtime.store.clock()
    return stages.set_stage(runtime.db, "child", stage, None, By("test", "a flip"), now)


def watcher(
    stack: ExitStack, environ: dict[str, str], log: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    out = stack.enter_context(log.open("wb"))
    process = Forked(["-c", WATCH], env=environ, stdout=out)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process, log

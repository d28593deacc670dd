"""How soon the last of many processes obeys a flip."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from app.switchyard.audit import By
from app.switchyard.cutover.stages import set_stage
from app.switchyard.runtime import Runtime
from tests.bench.harness import DATABASES, Bench, Row, row
from tests.support.sides import ROOT
from tests.support.waiting import until

WATCHERS = 8
PROMISED_SECONDS = 1.0
WATCH = """
import sys, time, flags
from app import create_app
create_app()
last = None
while True:
    seen = flags.decide("bench-noop", "k").version
    if seen != last:
        print(seen, time.monotonic(), flush=True)
        last = seen
    time.sleep(0.01)
"""


def flip(bench: Bench) -> Iterator[Row]:
    """From the commit of a flip until the last of eight processes decides by it."""
    for label in DATABASES:
        with bench.runtime(label) as (runtime, environ), ExitStack() as stack:
            switched = {**environ, "USE_INNGEST": "true"}
            logs = [_watcher(stack, switched, bench.folder) for _ in range(WATCHERS)]
            for log in logs:
                until(log.read_text, "it watches", patience_seconds=300)
            took = [_flip(runtime, n, logs) for n in range(bench.some(60))]
            p99 = statistics.quantiles(took, n=100, method="inclusive")[98]
            name = f"flip: to the last of {WATCHERS} processes obeying, p99, {label}"
            yield row(name, p99, PROMISED_SECONDS, "promised", "seconds", less=True)


def _flip(runtime: Runtime, number: int, logs: list[Path]) -> float:
    stage = "live" if number % 2 == 0 else "legacy"
    now = runtime.store.clock()
    change = set_stage(runtime.db, "bench-noop", stage, None, By("bench", "a flip"), now)
    at = time.monotonic()
    time.sleep(random.uniform(0.9, 1.8))  # flips come at any moment of the watchers' own pace

    def seen() -> list[float]:
        return [found[change.id] for log in logs if change.id in (found := _seen(log))]

    until(lambda: len(seen()) == len(logs), "all obey")
    return max(seen()) - at


def _watcher(stack: ExitStack, environ: dict[str, str], folder: Path) -> Path:
    log = Path(tempfile.mkstemp(dir=folder)[1])
    out = stack.enter_context(log.open("wb"))
    command = [sys.executable, "-c", WATCH]
    process = subprocess.Popen(
        command, env=environ, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return log


def _seen(log: Path) -> dict[int, float]:
    """When each version of the stage was seen first."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return {int(line[0]): float(line[1]) for line in lines if len(line) == 2}

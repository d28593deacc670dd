"""kill -9 of workers in the middle of a step, until what they held goes on in others: ours as the
Procfile has them, with a relay, and RQ's at its fastest settings."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psutil
from rq import Queue, Retry, Worker
from sqlalchemy import select

from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from queues.backend import connect
from tests.bench.harness import Bench, Row, row
from tests.bench.held import BEGUN, hold
from tests.proof.recovery import stack
from tests.support.sides import ROOT
from tests.support.waiting import until

KILLED = 3
"""Workers that die at once; as many stand by."""
HELD_SECONDS = 600.0
FASTEST = ("--worker-ttl", "16", "--maintenance-interval", "1", "--job-monitoring-interval", "1")
"""Its idle workers look every second (the ttl less 15); a job counts as abandoned 60 s after its
worker's last heartbeat, which nothing changes."""


def recovery(bench: Bench) -> Iterator[Row]:
    """The median of three."""
    name = "recovery: kill -9 of a worker to its run going on, median"
    own, theirs = _ours(bench.redis_url), _rq(bench.redis_url)
    yield row(name, own, theirs, "rq at its fastest settings", "seconds", less=True)


def _ours(redis_url: str) -> float:
    first, spare = ([f"{kind}-{n}" for n in range(KILLED)] for kind in ("first", "spare"))
    running = select(R.id, R.epoch).where(R.status == Status.RUNNING)
    with stack(redis_url, "relay", *first) as there:
        there.dispatch("rq", KILLED, wait_seconds=HELD_SECONDS)

        def held() -> dict[str, int]:
            with there.runtime.db.autocommit() as connection:
                return {run.id: run.epoch for run in connection.execute(running)}

        _await(redis_url, KILLED, held)
        before = held()
        for name in spare:
            there.start(name)
        _await(redis_url, 2 * KILLED, held)
        for name in first:
            there.end(name, signal.SIGKILL)
        took = _median(lambda: [run for run, epoch in held().items() if epoch > before[run]])
        for name in spare:
            there.end(name, signal.SIGKILL)
        return took


def _rq(redis_url: str) -> float:
    redis = connect(redis_url)
    redis.flushall()
    queue = Queue("bench", connection=redis)
    for n in range(KILLED):
        queue.enqueue(hold, n, redis_url, HELD_SECONDS, retry=Retry(max=3), job_timeout=3600)

    def begun(times: int) -> list[Any]:
        counts: Any = redis.hgetall(BEGUN)
        return [n for n, count in counts.items() if int(count) >= times]

    with ExitStack() as workers:
        first = [_worker(workers, redis_url) for _ in range(KILLED)]
        _await(redis_url, KILLED, lambda: begun(1))
        for _ in range(KILLED):
            _worker(workers, redis_url)
        _await(redis_url, 2 * KILLED, lambda: begun(1))
        for process in first:
            _kill(process.pid)
        return _median(lambda: begun(2))


def _worker(workers: ExitStack, redis_url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rq.cli", "worker", "bench", "--url", redis_url, *FASTEST]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)
    workers.callback(process.wait)
    workers.callback(_kill, process.pid)
    return process


def _kill(worker: int) -> None:
    """With what it has forked, which is in no group of its worker's."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(worker)
        for one in (process, *process.children(recursive=True)):
            one.kill()


def _await(redis_url: str, workers: int, held: Callable[[], Collection[Any]]) -> None:
    """Wait until so many workers are up, and all that is to be held is."""
    redis = connect(redis_url)

    def up() -> bool:
        return len(held()) == KILLED and Worker.count(connection=redis) == workers

    until(up, "all at work", patience_seconds=300)
    time.sleep(2)  # the last one is about to wait


def _median(again: Callable[[], Collection[Any]]) -> float:
    """Of how long it takes from now until each goes on."""
    killed, took = time.monotonic(), list[float]()
    while len(took) < KILLED:
        if time.monotonic() > killed + 1000:
            raise TimeoutError("not all went on")
        took += [time.monotonic() - killed] * (len(again()) - len(took))
        time.sleep(0.05)
    return statistics.median(took)

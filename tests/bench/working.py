"""Rows: what two worker processes do in a second, from the first tenth to the last."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from rq import Queue

from app.switchyard.dispatch import dispatch_many
from app.switchyard.runtime import Runtime
from queues.backend import connect
from tests.bench.dispatching import NOOP
from tests.bench.harness import (
    DATABASES,
    Bench,
    Measure,
    Row,
    counted,
    drained,
    in_turn,
    open_runs,
    processes,
    procfile,
    rival,
    run,
    said,
)

UNIT = "a second"
_DBOS = "SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'"
_PROCRASTINATE = "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"


def _ours(bench: Bench, runtime: Runtime, environ: dict[str, str], job: str, count: int) -> Measure:
    def measured() -> float:
        connect(bench.redis_url).flushall()
        dispatch_many(job, [{"n": n} for n in range(count)])
        with processes([procfile("worker")] * 2, environ):
            return drained(lambda: open_runs(runtime), count)

    return measured


def _theirs(bench: Bench, name: str, fill: str, count: int, left: str, *kind: str) -> Measure:
    def measured() -> float:
        with bench.database("Postgres") as url:
            if name == "procrastinate":
                run(rival(name, "schema", url, 0))
            said(rival(name, fill, url, count, *kind))
            workers = [rival(name, "work", url, f"w{n}") for n in range(2)]
            with processes(workers, dict(os.environ)):
                return drained(lambda: counted(url, left), count)

    return measured


def _pool(bench: Bench, count: int) -> Measure:
    redis = connect(bench.redis_url)

    def measured() -> float:
        redis.flushall()
        jobs = [Queue.prepare_data(NOOP, (n,), result_ttl=0) for n in range(count)]
        Queue("bench", connection=redis).enqueue_many(jobs)
        command = [sys.executable, "-m", "rq.cli", "worker-pool", "bench", "-n", "2", "-q"]
        with processes([[*command, "--url", bench.redis_url]], dict(os.environ)):
            return drained(lambda: len(redis.keys("rq:job:*")), count)

    return measured


def no_op(bench: Bench) -> Iterator[Row]:
    """no-op runs."""
    count, slow = bench.some(2000), bench.some(500)
    for label in DATABASES:
        name = f"no-op runs, 2 workers, {label}"
        with bench.runtime(label) as (runtime, environ):
            ours = _ours(bench, runtime, environ, "bench-noop", count)
            rivals: dict[str, Callable[[], float]] = {
                "rq worker-pool -n 2": _pool(bench, slow),
            }
            if label == "Postgres":
                rivals["dbos, 2 processes"] = _theirs(bench, "dbos", "enqueue", slow, _DBOS)
                rivals["procrastinate, 2 processes"] = _theirs(
                    bench, "procrastinate", "batch", count, _PROCRASTINATE
                )
            for who, theirs in rivals.items():
                yield in_turn(name, UNIT, who, ours, theirs, bench.rounds, warm=False)


def three_steps(bench: Bench) -> Iterator[Row]:
    """three steps: each on record before the next begins."""
    count = bench.some(300)
    with bench.runtime("Postgres") as (runtime, environ):
        ours = _ours(bench, runtime, environ, "bench-three", count)
        theirs = _theirs(bench, "dbos", "enqueue", count, _DBOS, "three")
        name = "three steps, 2 workers, Postgres"
        yield in_turn(name, UNIT, "dbos, 2 processes", ours, theirs, bench.rounds, warm=False)

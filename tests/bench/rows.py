"""The benchmark's rows: each measures our side and its rival in turn, in one process tree."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from rq import Queue
from sqlalchemy import func, select

import flags
from app.platform.config import load
from app.platform.wiring import make_runtime
from app.switchyard.dispatch import dispatch, dispatch_many
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from flags import StageRow
from queues.backend import connect
from tests.support.tables import create_all

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its rival's; `ratio` above 1 means we are better."""

    name: str
    ours: float
    rival: float
    rival_name: str
    unit: str
    ratio: float


def in_turn(
    name: str, unit: str, rival_name: str, ours: Measure, rival: Measure, *, rounds: int = ROUNDS
) -> Row:
    """Medians of `rounds` rounds of A B A B …, after one of each that is not counted."""
    ours(), rival()
    pairs = [(ours(), rival()) for _ in range(rounds)]
    mine = statistics.median(a for a, _ in pairs)
    theirs = statistics.median(b for _, b in pairs)
    return Row(name, round(mine, 1), round(theirs, 1), rival_name, unit, round(mine / theirs, 2))


def rate(count: int, work: Callable[[], object]) -> float:
    """How many a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


@contextmanager
def runtime_on(database_url: str, redis_url: str) -> Iterator[Runtime]:
    """The product wired to a database with its tables, every job on RQ."""
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SWITCHYARD_JOBS": "tests.bench.jobs",
        "INNGEST_DEV": "http://127.0.0.1:9",
    }
    runtime = make_runtime(load(environ))
    create_all(runtime.db.engine)
    try:
        yield runtime
    finally:
        runtime.db.dispose()


def dispatch_one(label: str, database_url: str, redis_url: str, count: int = 500) -> Row:
    """One dispatch() to RQ, row and all, against rq.Queue.enqueue."""
    redis = connect(redis_url)
    with runtime_on(database_url, redis_url):

        def ours() -> float:
            redis.flushall()
            return rate(count, lambda: [dispatch("bench-noop", {"n": i}) for i in range(count)])

        def rival() -> float:
            redis.flushall()
            queue = Queue("bench", connection=redis)
            return rate(
                count, lambda: [queue.enqueue("tests.bench.rival.noop", i) for i in range(count)]
            )

        return in_turn(f"dispatch() to RQ, {label}", "a second", "rq Queue.enqueue", ours, rival)


def dispatch_bulk(label: str, database_url: str, redis_url: str, count: int = 10_000) -> Row:
    """dispatch_many of 10,000 against enqueue_many."""
    redis = connect(redis_url)
    with runtime_on(database_url, redis_url):

        def ours() -> float:
            redis.flushall()
            items = [{"n": i} for i in range(count)]
            return rate(count, lambda: dispatch_many("bench-noop", items))

        def rival() -> float:
            redis.flushall()
            queue = Queue("bench", connection=redis)

            def enqueue() -> None:
                queue.enqueue_many(
                    [Queue.prepare_data("tests.bench.rival.noop", (i,)) for i in range(count)]
                )

            return rate(count, enqueue)

        name = f"dispatch_many of {count:,}, {label}"
        return in_turn(name, "a second", "rq Queue.enqueue_many", ours, rival)


def no_op_runs(label: str, database_url: str, redis_url: str, count: int = 400) -> Row:
    """No-op runs with two workers as the Procfile starts them against rq worker-pool -n 2."""
    redis = connect(redis_url)
    with runtime_on(database_url, redis_url) as made:
        environ = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SWITCHYARD_JOBS": "tests.bench.jobs",
            "LOG_LEVEL": "ERROR",
        }

        def ours() -> float:
            redis.flushall()
            dispatch_many("bench-noop", [{"n": i} for i in range(count)])
            command = procfile_worker()
            with processes([command, command], environ):
                return drained(lambda: _open_runs(made), count)

        def rival() -> float:
            redis.flushall()
            queue = Queue("bench", connection=redis)
            queue.enqueue_many(
                [
                    Queue.prepare_data("tests.bench.rival.noop", (i,), result_ttl=0)
                    for i in range(count)
                ]
            )
            command = [sys.executable, "-m", "rq.cli", "worker-pool", "bench", "-n", "2", "-q"]
            with processes([[*command, "--url", redis_url]], environ):
                return drained(lambda: len(redis.keys("rq:job:*")), count)

        name = f"no-op runs, 2 workers, {label}"
        return in_turn(name, "a second", "rq worker-pool -n 2", ours, rival)


def procfile_worker() -> list[str]:
    """The worker's command line, from the Procfile, with this interpreter."""
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, command = line.partition(":")
        if name == "worker":
            words = command.split()
            return [sys.executable, "-m", "rq.cli", *words[words.index("rq") + 1 :]]
    raise LookupError("the Procfile has no worker")


@contextmanager
def processes(commands: list[list[str]], environ: dict[str, str]) -> Iterator[None]:
    """Run the commands until the block ends."""
    running = [
        subprocess.Popen(
            command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)


def drained(left: Callable[[], int], count: int) -> float:
    """How many a second from the first end to the last: start-up is not counted."""
    deadline = time.perf_counter() + 60

    def still() -> int:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{left()} of {count} not done after 60 s")
        return left()

    while (at_start := still()) == count:
        time.sleep(0.005)
    start = time.perf_counter()
    while still() > 0:
        time.sleep(0.02)
    return at_start / (time.perf_counter() - start)


def _open_runs(runtime: Runtime) -> int:
    chosen = select(func.count()).select_from(RunRow).where(RunRow.check_at.is_not(None))
    with runtime.db.autocommit() as connection:
        return connection.scalar(chosen) or 0


def decide(count: int = 100_000) -> Row:
    """One decide() on a ramp against the OpenFeature SDK's in-memory provider."""
    environ = {"USE_INNGEST": "true"}
    ours_flags = flags.Flags(
        lambda: [StageRow("bench", "ramp", 50.0, 1)], lambda job: "inngest", environ=environ
    )
    variants = {"rq": "rq", "inngest": "inngest"}
    api.set_provider(InMemoryProvider({"bench": InMemoryFlag("inngest", variants)}))
    client = api.get_client()

    def ours() -> float:
        def work() -> None:
            for n in range(count):
                ours_flags.decide("bench", f"key-{n % 100}")

        return rate(count, work)

    def rival() -> float:
        few = count // 10

        def work() -> None:
            for _ in range(few):
                client.get_string_details("bench", "rq")

        return rate(few, work)

    return in_turn("decide() in a ramp", "a second", "OpenFeature InMemoryProvider", ours, rival)


def save(rows: list[Row], path: Path) -> None:
    """Write var/bench.json as the contract has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("name", "ours", "rival", "rival_name", "unit", "ratio")
    path.write_text(json.dumps([{k: getattr(row, k) for k in names} for row in rows], indent=2))

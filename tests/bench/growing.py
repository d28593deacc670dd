"""Rows: what grows with the ledger and must not, and what our processes take of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.request import urlopen

import psutil

from app import create_app
from app.platform.config import ROOT, load
from app.switchyard import runtime as runtimes
from app.switchyard.dispatch import dispatch, dispatch_many
from app.switchyard.operations.search import RunFilter, search
from app.switchyard.runs.backend import Delivery
from app.switchyard.runtime import Runtime
from queues.backend import connect, registered_workers
from tests.bench.harness import DATABASES, Bench, Row, open_runs, processes, procfile, row
from tests.support.filled import fill
from tests.support.sides import free_port
from tests.support.waiting import until

SHORT = 10_000
_ROUNDS = 15
_SEARCHES: tuple[dict[str, Any], ...] = (
    {"job": "bench-noop", "status": "failed"},
    {"status": "cancelled", "backend": "inngest"},
    {"job": "job-7", "stage": "ramp"},
    {"error": "no answer from 7."},
    {"payload": "creatorId:nobody"},
)


def growth(bench: Bench) -> Iterator[Row]:
    """growth: with many runs in the ledger, beside the same with 10,000."""
    large = 10_000_000 if bench.full else 50_000 if bench.quick else 500_000
    for label in DATABASES:
        with ExitStack() as stack:
            sides = []
            for count in (large, SHORT):
                runtime, environ = stack.enter_context(bench.runtime(label))
                fill(runtime.db, count, common="bench-noop")
                client = create_app(load(environ)).test_client()
                sides.append(_acts(runtime, client))
            for what in sides[0]:
                many, few = ([one[what]] for one in sides)
                times: list[list[float]] = [[], []]
                for _ in range(_ROUNDS):  # in turn; of each the quickest counts
                    for seconds, (act,) in zip(times, (many, few), strict=True):
                        start = time.perf_counter()
                        act()
                        seconds.append((time.perf_counter() - start) * 1000)
                mine, theirs = map(min, times)
                unit = f"ms, {large:,} runs"
                name = f"growth, {what}, {label}"
                yield row(name, mine, theirs, f"with {SHORT:,}", unit, less=True)


def _acts(runtime: Runtime, client: Any) -> dict[str, Callable[[], object]]:
    def send() -> None:
        with runtimes.using(runtime):
            for n in range(20):
                dispatch("bench-noop", {"n": n})

    def claim() -> None:
        with runtimes.using(runtime):
            for run in dispatch_many("bench-noop", [{"n": n} for n in range(20)]):
                runtime.engine.perform(run.id, 1, Delivery("bench"))

    def page(path: str) -> None:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.status, answer.text[-2000:])

    def look() -> None:
        for wanted in _SEARCHES:
            search(runtime.db, RunFilter(**wanted))

    pages = {path: partial(page, path) for path in ("/console", "/metrics")}
    return {
        "20 dispatches": send,
        "20 runs claimed and done": claim,
        f"{len(_SEARCHES)} searches": look,
        **pages,
    }


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def _memory(process: subprocess.Popen[bytes]) -> float:
    """MiB of it and all it has started, what they share counted once."""
    return float(sum(one.memory_full_info().pss for one in _tree(process)) / 2**20)


def _cpu(process: subprocess.Popen[bytes]) -> float:
    return float(sum(sum(one.cpu_times()[:2]) for one in _tree(process)))


def _answers(port: int, prefix: str = "") -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}{prefix}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _web(app: str, port: int) -> list[str]:
    own = ["--worker-class", "app.buffered.Worker"] if app == "app.server:app" else []
    gunicorn = [sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}"]
    return [*gunicorn, *own, "--threads", "16", "--no-control-socket"]


def _bare_worker(bench: Bench) -> list[str]:
    return [sys.executable, "-m", "rq.cli", "worker", "bare", "--url", bench.redis_url]


def memory(bench: Bench) -> Iterator[Row]:
    """memory: our processes after many runs, beside bare ones that have just begun."""
    count = 100_000 if bench.full else bench.some(20_000)
    redis = connect(bench.redis_url)
    redis.flushall()
    with bench.runtime("SQLite") as (runtime, environ):
        port, bare_port = free_port(), free_port()
        commands = [
            *(procfile("worker"), _bare_worker(bench)),
            *(_web("tests.bench.layer:app", port), _web("tests.bench.rivals.bare:app", bare_port)),
        ]
        environ["FLASK_APP"] = "tests.bench.layer"
        with processes(commands, environ) as (worker, bare_worker, web, bare_web):
            until(lambda: len(registered_workers(redis)) == 2)
            until(lambda: _answers(port, "/switchyard") and _answers(bare_port))
            sizes = []
            for share in (count // 10, count - count // 10):
                dispatch_many("bench-noop", [{"n": n} for n in range(share)])
                until(lambda: open_runs(runtime) == 0)
                for path in ("console", "metrics", "healthz"):
                    for _ in range(10):
                        urlopen(f"http://127.0.0.1:{port}/switchyard/{path}", timeout=30).close()
                sizes.append((_memory(worker), _memory(web)))
            bare = (_memory(bare_worker), _memory(bare_web))
    early, late = sizes
    for what, then, now, other in zip(("worker", "web"), early, late, bare, strict=True):
        rival = "bare rq worker" if what == "worker" else "bare Flask in gunicorn"
        unit = f"MiB after {count:,} runs"
        yield row(f"memory, {what}", now, other, rival, unit, less=True)
        yield row(f"memory, {what}", now, then, "after a tenth of them", unit, less=True)


def start(bench: Bench) -> Iterator[Row]:
    """start: CPU until a command has ended, or a process serves; beside bare ones."""
    redis = connect(bench.redis_url)
    flask = [sys.executable, "-m", "flask", "--app"]
    port = free_port()

    def ended(command: list[str]) -> float:
        process = psutil.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, command
        return used.ru_utime + used.ru_stime

    def serves(command: list[str], ready: Callable[[], object]) -> float:
        redis.flushall()
        with processes([command], environ) as (process,):
            until(ready)
            return _cpu(process)

    def listens() -> bool:
        return bool(registered_workers(redis))

    with bench.runtime("SQLite") as (_, environ):
        plan: dict[str, tuple[Callable[[], float], Callable[[], float], str]] = {
            "flask jobs list": (
                partial(ended, [*flask, "app", "jobs", "list"]),
                partial(ended, [*flask, "tests.bench.rivals.bare", "routes"]),
                "flask routes of an empty app",
            ),
            "web": (
                partial(serves, _web("app.server:app", port), lambda: _answers(port)),
                partial(serves, _web("tests.bench.rivals.bare:app", port), lambda: _answers(port)),
                "bare Flask in gunicorn",
            ),
            "worker": (
                partial(serves, procfile("worker"), listens),
                partial(serves, _bare_worker(bench), listens),
                "bare rq worker",
            ),
        }
        for what, (ours, theirs, rival) in plan.items():
            pairs = [(ours(), theirs()) for _ in range(bench.rounds)]
            mine, other = (min(one) for one in zip(*pairs, strict=True))
            yield row(f"start, {what}", mine, other, rival, "s of CPU", less=True)

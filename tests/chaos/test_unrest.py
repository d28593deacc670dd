"""Everything at once, from one seed: dispatches, flips, hand-overs, kills, restarts, lost queues,
a server that runs twice or never. After it has drained, every effect happened exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import flags
from app.dispatch import Item, dispatch, dispatch_many
from app.local.inngest.standin import InngestStandIn
from app.runs.handoff import hand_over
from app.runs.models import RunRow
from app.runtime import Runtime
from queues.backend import connect
from tests.support import jobs
from tests.support.sides import ROOT, Fixed, environment, free_port, fresh

ROUNDS = 120
DRAIN_SECONDS = 60.0
PARTS = {
    "worker-1": ["-m", "rq.cli", "worker", "--config", "queues.settings"],
    "worker-2": ["-m", "rq.cli", "worker", "--config", "queues.settings"],
    "web": ["-m", "gunicorn", "app.server:app", "--worker-class", "gthread", "--threads", "8"],
    "relay-1": ["-m", "flask", "--app", "app", "relay"],
    "relay-2": ["-m", "flask", "--app", "app", "relay"],
}
FAULTS: list[dict[str, float]] = [
    {"double": 0.3},
    {"swallow": 0.3},
    {"unknown_outcome": 0.3},
    {"drop": 0.3},
    {},
]


class Platform:
    """Real processes on both sides, which may die at any time, and what they were told to do."""

    def __init__(self, seed: int, database_url: str, redis_url: str, folder: Path) -> None:
        self.random = random.Random(seed)
        self.redis_url = redis_url
        self.folder = folder
        self.port, self.inngest_port = free_port(), free_port()
        self.inngest = self._inngest()
        self.environ = environment(
            database_url,
            redis_url,
            INNGEST_DEV=self.inngest.start(self.inngest_port),
            LEASE_SECONDS="2",
            CHECK_SECONDS="0.7",
            LOG_LEVEL="CRITICAL",
        )
        self.made: Runtime = fresh(database_url, self.environ, None)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.expected: Counter[str] = Counter()
        self.names = 0

    def _inngest(self) -> InngestStandIn:
        app = f"http://127.0.0.1:{self.port}/api/inngest"
        return InngestStandIn([app], gap_scale=0.02, seed=self.random.randrange(1 << 30))

    def start(self, name: str) -> None:
        more = {"web": ["--bind", f"127.0.0.1:{self.port}", "--no-control-socket"]}.get(name, [])
        if name.startswith("worker"):
            more = ["--worker-class", "queues.worker.Worker"]
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, *PARTS[name], *more]
            self.processes[name] = subprocess.Popen(
                command, env=self.environ, cwd=ROOT, stdout=log, stderr=log
            )

    def tend(self) -> None:
        for name in PARTS:
            if name not in self.processes or self.processes[name].poll() is not None:
                self.start(name)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(15)
        self.inngest.stop()
        self.made.db.dispose()

    def round(self) -> None:
        """A few dispatches, and perhaps one misfortune."""
        for _ in range(self.random.randint(1, 5)):
            self._dispatch()
        luck = self.random.random()
        for limit, misfortune in (
            (0.10, self._kill),
            (0.13, self._restart_inngest),
            (0.18, self._spoil_inngest),
            (0.22, lambda: connect(self.redis_url).flushall()),
            (0.42, self._hand_over),
        ):
            if luck < limit:
                misfortune()
                break
        self.tend()
        time.sleep(self.random.random() * 0.1)

    def _dispatch(self) -> None:
        self.names += 1
        name = f"c{self.names}"
        flags.configure(Fixed(self.random.choice(["rq", "inngest"])))
        job = self.random.choice(["five-steps", "sleeper", "parent", "grab-bag", "child"])
        payload: dict[str, Any] = {"name": name}
        effects = {
            "five-steps": [f"{name}/{n}" for n in range(1, 6)],
            "sleeper": [f"{name}/before", f"{name}/after"],
            "parent": [f"{name}/0", f"{name}/1", f"{name}/2", f"{name}/after"],
            "grab-bag": [f"{name}/first", f"{name}/0", f"{name}/1", f"{name}/last"],
            "child": [name],
        }[job]
        if job == "five-steps":
            payload |= {"failAt": self.random.randint(1, 5), "failures": self.random.randint(0, 2)}
        delay = self.random.random() * 3 if self.random.random() < 0.3 else None
        dispatch(job, payload, key=name, delay=delay)
        if self.random.random() < 0.2:
            dispatch_many(job, [Item(payload, key=name)] * 2)
        self.expected.update(effects)

    def _kill(self) -> None:
        name = self.random.choice(list(PARTS))
        process = self.processes[name]
        if self.random.random() < 0.7:
            process.kill()
        else:
            process.terminate()
        process.wait(15)

    def _restart_inngest(self) -> None:
        self.inngest.stop()
        time.sleep(self.random.random() * 0.3)
        self.inngest = self._inngest()
        self.inngest.start(self.inngest_port)

    def _spoil_inngest(self) -> None:
        self.inngest.fault(**self.random.choice(FAULTS))

    def _hand_over(self) -> None:
        some = select(RunRow.id).where(RunRow.check_at.is_not(None)).order_by(func.random())
        with self.made.db.autocommit() as connection:
            ids = list(connection.scalars(some.limit(self.random.randint(1, 40))))
        hand_over(self.made.store, ids, self.random.choice(["rq", "inngest"]))

    def left(self) -> int:
        count = select(func.count()).select_from(RunRow).where(RunRow.check_at.is_not(None))
        with self.made.db.autocommit() as connection:
            return connection.scalar(count) or 0


@pytest.mark.parametrize("seed", [7])
def test_whatever_happens_each_effect_happens_once(
    seed: int, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        platform = Platform(seed, database_url, redis_url, tmp_path)
        stack.callback(platform.stop)
        platform.tend()
        for _ in range(ROUNDS):
            platform.round()
        platform.inngest.fault()
        end = time.monotonic() + DRAIN_SECONDS
        while platform.left():
            assert time.monotonic() < end, f"{platform.left()} runs do not come to their end"
            platform.tend()
            time.sleep(0.2)
        done = Counter(jobs.marks(platform.made.db))
        assert (platform.expected - done, done - platform.expected) == (Counter(), Counter())
        failed = select(RunRow.id, RunRow.error).where(RunRow.status != "succeeded")
        with platform.made.db.autocommit() as connection:
            assert connection.execute(failed).all() == []

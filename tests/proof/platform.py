"""Real processes on both sides, at once and from one seed; the schedules say what they suffer."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

import flags
from app.platform.config import load
from app.platform.wiring import make_runtime
from app.switchyard.audit import By
from app.switchyard.config import LOCAL_QSTASH_TOKEN
from app.switchyard.cutover import stages
from app.switchyard.db import Database
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import BackendUnavailable, StageRefused
from tests.proof import checker
from tests.proof.servers import Postgres, Valkey, each_of
from tests.support import pooler
from tests.support.forks import Forked
from tests.support.machine import effects_of
from tests.support.marks import Mark
from tests.support.sides import (
    CURRENT_KEY,
    WORKER,
    decide_by,
    environment,
    free_port,
    qstash_environment,
)
from tests.support.standins import InngestStandIn, QStashStandIn
from tests.support.waiting import PATIENCE_SECONDS
from workflows import schedules

JOBS = ("five-steps", "sleeper", "parent", "grab-bag", "child", "outside", "posted")
MODULES = "tests.support.jobs,tests.proof.jobs"
OUTAGES = (SQLAlchemyError, RedisError, BackendUnavailable, psycopg.OperationalError)
"""What the one who causes all this must expect as well."""
WEB = ["-m", "gunicorn", "app.server:app", "--threads", "8", "--no-control-socket", "--reuse-port"]
COMMANDS = {
    "web": [*WEB, "--worker-class", "app.buffered.Worker"],
    "worker": WORKER,
    "relay": ["-m", "flask", "--app", "app", "relay"],
    "clock": ["-m", "flask", "--app", "app", "clock"],
}
PARTS = ("web", "worker-1", "worker-2", "relay-1", "relay-2", "clock-1", "clock-2")


@dataclass(frozen=True)
class Profile:
    """How much is to happen, and how patient the product is."""

    runs: int
    """Of those that were dispatched by name; children and ticks come on top."""
    flips: int
    kills: int
    """Of every kind of process."""
    relay_seconds: float
    """How long no relay is there."""
    most_seconds: float
    most_alike: int = 24
    """Cards in a deck."""
    lease: float = 2.0
    check: float = 0.7

    @property
    def frozen_seconds(self) -> float:
        """Longer than a lease."""
        return 1.3 * self.lease


class Platform:
    """What runs, what was asked of it, and what happened to it."""

    def __init__(self, seed: int, database: str, profile: Profile, folder: Path) -> None:
        self.random = random.Random(seed)
        self.profile, self.folder = profile, folder
        self.valkey = Valkey(folder)
        self.servers: dict[str, Any] = {"valkey": self.valkey}
        self.url = f"sqlite:///{folder / 'chaos.db'}"
        self.pooled: str | None = None
        if database == "postgres":
            self.servers["postgres"] = server = Postgres()
            self.url = server.url
            if pooler.PROGRAM is not None:
                (folder / "pooler").mkdir()
                self.servers["pooler"] = behind = pooler.Pooler(self.url, 20, folder / "pooler")
                behind.start()
                self.pooled = behind.url
        self.ports = {name: free_port() for name in ("web", "inngest", "qstash")}
        self.app_url = f"http://127.0.0.1:{self.ports['web']}"
        self.services: dict[str, Any] = {}
        self.environ = environment(
            self.url,
            self.valkey.url,
            **qstash_environment(f"http://127.0.0.1:{self.ports['qstash']}", self.app_url),
            INNGEST_DEV=f"http://127.0.0.1:{self.ports['inngest']}",
            LEASE_SECONDS=str(profile.lease),
            CHECK_SECONDS=str(profile.check),
            LOG_LEVEL="CRITICAL",
        ) | {"SWITCHYARD_JOBS": MODULES, "CHAOS_EFFECTS": str(folder / checker.EFFECTS)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped: set[str] = set()
        """Parts that are not to be started again yet."""
        self.rivals: list[subprocess.Popen[bytes]] = []
        self.later: list[threading.Timer] = []
        self.unsure: list[tuple[str, dict[str, Any], list[str], float | None]] = []
        """Intents whose dispatch failed: whoever asked asks again."""
        self.names = self.flips = 0
        self.killed, self.faults = Counter[str](), Counter[str]()
        self.hurt: list[tuple[str, float, dict[str, int]]] = []
        """What was killed or frozen, when, and the runs at work just then with their epochs."""
        self.recovered: dict[str, list[float]] = defaultdict(list)
        for name in ("inngest", "qstash"):
            self.serve(name)

    def make_marks(self) -> None:
        """The tables of what the jobs do."""
        db = Database(self.url)
        Mark.metadata.create_all(db.engine)
        db.dispose()

    def open(self) -> None:
        """Once the product's tables are there."""
        self.runtime = make_runtime(load(self.environ))
        decide_by(
            flags.Flags(
                lambda: stages.current_stages(self.runtime.db),
                lambda job: self.runtime.catalogue[job].serverless,
                environ={"USE_INNGEST": "true"},
            )
        )
        schedules.sync(self.runtime)

    def serve(self, name: str) -> None:
        """Start a service anew: Inngest has lost all that it had, QStash nothing."""
        if name in self.services:
            self.services[name].stop()
            time.sleep(self.random.random() * 0.3)
        seed = self.random.randrange(1 << 30)
        if name == "inngest":
            app = f"{self.app_url}/api/inngest"
            self.services[name] = InngestStandIn([app], gap_scale=0.02, seed=seed)
        else:
            data = str(self.folder / "qstash.db")
            options: dict[str, Any] = {"gap_scale": 0.02, "seed": seed}
            self.services[name] = QStashStandIn(LOCAL_QSTASH_TOKEN, CURRENT_KEY, data, **options)
        self.services[name].start(self.ports[name])

    def start(self, name: str, folder: Path | None = None) -> None:
        """Start a part, of this code or of that in `folder`."""
        kind = name.removeprefix("old-").partition("-")[0]
        command = COMMANDS[kind]
        if kind == "web":
            command = [*command, "--bind", f"127.0.0.1:{self.ports['web']}"]
            if folder is not None and not (folder / "app" / "buffered.py").exists():
                command = ["gthread" if one == "app.buffered.Worker" else one for one in command]
        # Half of them through the pooler, half directly.
        through = {} if self.pooled is None or name[-1] == "2" else {"DATABASE_URL": self.pooled}
        self.processes[name] = self.spawn(name, command, self.environ | through, folder)

    def spawn(
        self, log: str, command: list[str], environ: dict[str, str], folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A process of its own session; older code is not in the server that others fork from."""
        with (self.folder / f"{log}.log").open("ab") as out:
            if folder is None:
                return Forked(command, env=environ, stdout=out, stderr=out, start_new_session=True)
            python = [sys.executable, *command]
            return subprocess.Popen(python, cwd=folder, env=environ, stdout=out, stderr=out)

    def tend(self) -> None:
        for name in PARTS:
            if name not in self.stopped and (
                name not in self.processes or self.processes[name].poll() is not None
            ):
                self.start(name)

    def stop(self) -> None:
        for timer in self.later:
            timer.cancel()
        for process in (*self.processes.values(), *self.rivals):
            each_of(process, psutil.Process.kill)
            process.wait(PATIENCE_SECONDS)
        for service in self.services.values():
            service.stop()
        if hasattr(self, "runtime"):
            self.runtime.db.dispose()
        for name, server in reversed(self.servers.items()):
            server.stop() if name == "postgres" else server.kill()

    def round(self) -> None:
        """A few dispatches, and perhaps a flip."""
        for _ in range(self.random.randint(1, 5)):
            self.intend()
        if self.random.random() < 0.5:
            with suppress(*OUTAGES):
                self.flip()
        self.settle()
        time.sleep(self.random.random() * 0.1)

    def settle(self) -> None:
        """Ask again, and start again."""
        unsure, self.unsure = self.unsure, []
        for one in unsure:
            self.ask(*one)
        self.tend()
        with suppress(*OUTAGES):
            self.look()

    def after(self, seconds: float, undo: Callable[[], object]) -> None:
        """Have something undone in so many seconds, whatever holds up this thread meanwhile: maybe
        the very process that is frozen, with SQLite's lock."""
        self.later.append(threading.Timer(seconds, undo))
        self.later[-1].start()

    def intend(self) -> None:
        self.names += 1
        name = f"c{self.names}"
        job = self.random.choice(JOBS)
        payload: dict[str, Any] = {"name": name}
        if job == "five-steps":
            payload |= {"failAt": self.random.randint(1, 5), "failures": self.random.randint(0, 2)}
        delay = self.random.random() * 3 if self.random.random() < 0.3 else None
        self.ask(job, payload, effects_of(job, name), delay)
        if self.random.random() < 0.2:
            with suppress(*OUTAGES):
                dispatch_many(job, [Item(payload, key=name)] * 2)

    def ask(
        self, job: str, payload: dict[str, Any], effects: list[str], delay: float | None
    ) -> None:
        checker.note(self.folder, job, payload["name"], effects, None)
        try:
            dispatch(job, payload, key=payload["name"], delay=delay)
        except OUTAGES:
            self.unsure.append((job, payload, effects, delay))
        else:
            checker.note(self.folder, job, payload["name"], effects, True)

    def flip(self) -> None:
        stage = self.random.choice(["legacy", "ramp", "live"])
        percent = 50.0 if stage == "ramp" else None
        job, now = self.random.choice(JOBS), self.runtime.store.clock()
        with suppress(StageRefused):  # it stands there already
            stages.set_stage(self.runtime.db, job, stage, percent, By("chaos", "a flip"), now)
            self.flips += 1

    def kinds(self) -> list[str]:
        """What can be killed."""
        return [*COMMANDS, *self.servers]

    def has_suffered(self) -> bool:
        """Whether as much has happened as the profile asks for."""
        wanted, killed = self.profile, min(self.killed[kind] for kind in self.kinds())
        return self.names >= wanted.runs and self.flips >= wanted.flips and killed >= wanted.kills

    def kill(self, kind: str) -> None:
        """Kill -9 one of this kind; a server is started again at once, a part by tend()."""
        self.suffers(kind)
        self.killed[kind] += 1
        if kind in self.servers:
            self.servers[kind].kill()
            time.sleep(self.random.random() * 0.5)
            self.servers[kind].start()
            return
        name = self.random.choice([name for name in PARTS if name.startswith(kind)])
        process = self.processes[name]
        if self.random.random() < 0.5:
            each_of(process, psutil.Process.kill)
        process.kill()  # else what it has started goes on without it
        process.wait(PATIENCE_SECONDS)

    def freeze(self, kind: str) -> None:
        """Stop one of this kind for longer than a lease."""
        self.suffers(f"{kind} frozen")
        name = self.random.choice([name for name in PARTS if name.startswith(kind)])
        family = each_of(self.processes[name], psutil.Process.suspend)

        def resume() -> None:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.resume()

        self.after(self.profile.frozen_seconds, resume)

    def suffers(self, what: str) -> None:
        """Remember the runs that are at work as something happens, to see when they go on."""
        sql = "SELECT id, epoch FROM switchyard_runs WHERE status = 'running'"
        with suppress(*OUTAGES):
            if at_work := dict(checker.rows(self.url, sql)):
                self.hurt.append((what, time.monotonic(), at_work))

    def look(self) -> None:
        """See which of those have gone on: claimed anew, given back, or ended."""
        sql = "SELECT id, epoch FROM switchyard_runs WHERE status = 'running'"
        now, running = time.monotonic(), set(checker.rows(self.url, sql)) if self.hurt else set()
        hurt, self.hurt = self.hurt, []
        for what, since, runs in hurt:
            left = {run: epoch for run, epoch in runs.items() if (run, epoch) in running}
            if left:
                # Where no relay is there to take over, it counts from its return on.
                self.hurt.append((what, now if "relay-1" in self.stopped else since, left))
            else:
                self.recovered[what].append(now - since)

    def recovery(self) -> dict[str, dict[str, float]]:
        """Seconds until the last of the runs at work had gone on, by what had happened."""
        every = [one for some in self.recovered.values() for one in some]
        return {
            what: {
                "times": len(some),
                "median": round(statistics.median(some), 2),
                "worst": round(max(some), 2),
            }
            for what, some in sorted({**self.recovered, "all": every}.items())
            if some
        }

    def left(self) -> list[str]:
        """Runs that did not succeed, or not yet."""
        return checker.unfinished(self.url, {*JOBS, "ticked"})

    def drain(self, seconds: float) -> bool:
        """Nothing goes wrong any more; whether all came to its end in time."""
        for service in self.services.values():
            service.fault()
        for timer in self.later:
            timer.join()
        end = time.monotonic() + seconds
        while self.unsure or self.left() or any(one.poll() is None for one in self.rivals):
            if time.monotonic() > end:
                return False
            self.settle()
            time.sleep(0.2)
        return True

"""A whole side to run jobs on: database, backend, what carries its runs, and a relay."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flask import Flask
from sqlalchemy import select

import flags
from app import create_app
from app.local.loopback import free_port as free_port
from app.platform.config import Settings, load
from app.platform.wiring import make_runtime
from app.switchyard.clock import Clock
from app.switchyard.config import LOCAL_QSTASH_TOKEN
from app.switchyard.context import Payload
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.runs import relay
from app.switchyard.runs.backend import Backend
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import FailureRow, HandoffRow, RunRow, StepRow
from app.switchyard.runs.store import Run
from app.switchyard.runtime import EXTENSION, Runtime, current, install
from queues.backend import connect
from tests.support.forks import Forked
from tests.support.fresh import FreshProcesses
from tests.support.marks import marks, touches
from tests.support.serving import serve_in_thread
from tests.support.standins import InngestStandIn, QStashStandIn
from tests.support.tables import create_all
from tests.support.waiting import LONGEST_PAUSE
from tests.support.waiting import PATIENCE_SECONDS as PATIENCE_SECONDS
from workflows import qstash

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"LEASE_SECONDS": "2", "CHECK_SECONDS": "0.5", "LOG_LEVEL": "ERROR"}


class Fixed(flags.Flags):
    """Always one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def decide(self, job: str, key: str) -> flags.Decision:
        return flags.Decision(self.backend, "STATIC", "live", 1)


def decide_by(flags: flags.Flags) -> None:
    """Have `flags` decide for the runtime at work."""
    current().flags = flags


def build(settings: Settings) -> Flask:
    """The app; its runtime is this process's own."""
    app = create_app(settings)
    install(app.extensions[EXTENSION])
    return app


@contextmanager
def app_on(environ: dict[str, str]) -> Iterator[Flask]:
    """The app of this environment, on a ledger that has its tables."""
    fresh(environ).db.dispose()
    app = build(load(environ))
    try:
        yield app
    finally:
        app.extensions[EXTENSION].db.dispose()


@dataclass
class Side:
    """One backend on one database, working."""

    backend: str
    runtime: Runtime
    environ: dict[str, str]
    memory: MemoryBackend | None = None
    standin: InngestStandIn | None = None
    qstash: QStashStandIn | None = None

    def dispatch(self, job: str, payload: Payload, **options: Any) -> Run:
        return self.dispatch_many(job, [Item(payload, **options)])[0]

    def dispatch_many(self, job: str, items: Sequence[Item | Payload]) -> list[Run]:
        install(self.runtime)
        decide_by(Fixed(self.backend))
        return dispatch_many(job, items)

    def row(self, run_id: str) -> Any:
        (row,) = self.runtime.db.rows(select(RunRow.__table__).where(RunRow.id == run_id))
        return row

    def steps(self, run_id: str) -> dict[str, Any]:
        chosen = select(StepRow.__table__).where(StepRow.run_id == run_id)
        return {row.name: row for row in self.runtime.db.rows(chosen)}

    def failures(self, run_id: str) -> list[Any]:
        return self._of_run(FailureRow, run_id)

    def handoffs(self, run_id: str) -> list[Any]:
        return self._of_run(HandoffRow, run_id)

    def _of_run(self, kind: type[FailureRow | HandoffRow], run_id: str) -> list[Any]:
        chosen = select(kind.__table__).where(kind.run_id == run_id).order_by(kind.id)
        return self.runtime.db.rows(chosen)

    def children(self, run_id: str) -> list[Any]:
        chosen = select(RunRow.__table__).where(RunRow.parent_id == run_id)
        return self.runtime.db.rows(chosen)

    def finish(self, *runs: Run, patience_seconds: float = PATIENCE_SECONDS) -> list[Any]:
        """Wait until the runs are done with; their rows."""
        end, pause = time.monotonic() + patience_seconds, 0.02
        while True:
            if self.memory is not None:
                self.memory.work(self.runtime.engine)
            rows = [self.row(run.id) for run in runs]
            if all(row.check_at is None for row in rows):
                return rows
            if time.monotonic() > end:
                stuck = [row for row in rows if row.check_at is not None]
                raise AssertionError(f"not done with after {patience_seconds} s: {stuck[:3]}")
            time.sleep(pause)
            pause = min(1.1 * pause, LONGEST_PAUSE)

    def settle(self, seconds: float = 1.0) -> None:
        """Give what must not happen the time to happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.memory is not None:
                self.memory.work(self.runtime.engine)
            time.sleep(0.05)

    def marks(self, prefix: str) -> dict[str, int]:
        found = marks(self.runtime.db)
        return {what: count for what, count in found.items() if what.startswith(prefix)}

    def touches(self, what: str) -> int:
        return touches(self.runtime.db, what)


def environment(database_url: str, redis_url: str, **more: str) -> dict[str, str]:
    """A process's environment with nothing in it but what is named."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SWITCHYARD_JOBS": "tests.support.jobs,tests.support.old_jobs",
        **QUICK,
        **more,
    }


WORKER = ["-m", "rq.cli", "worker", "--config", "queues.settings"]
WORKER += ["--worker-class", "queues.worker.Worker"]


@contextmanager
def rq_worker(environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real `rq worker`, as the Procfile starts it."""
    with log.open("ab") as out:
        process = Forked(WORKER, env=environ, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def relaying(runtime: Runtime, interval_seconds: float = 0.1) -> Iterator[None]:
    """A relay in a thread."""
    stop = threading.Event()
    thread = threading.Thread(
        target=relay.run_forever, args=(runtime.store, stop, interval_seconds), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)


def fresh(
    environ: dict[str, str], backends: list[Backend] | None = None, clock: Clock | None = None
) -> Runtime:
    """The parts, on a ledger with every table; with `backends`, these in the place of its own."""
    runtime = make_runtime(load(environ), backends=backends, clock=clock)
    create_all(runtime.db.engine)
    return runtime


@contextmanager
def ledger(
    database_url: str, *backends: Backend, clock: Clock | None = None, **more: str
) -> Iterator[Runtime]:
    """The parts on a database with every table; with `backends`, these in the place of its own."""
    environ = environment(database_url, "redis://127.0.0.1:1", **more)
    runtime = fresh(environ, [*backends] or None, clock)
    try:
        yield runtime
    finally:
        runtime.db.dispose()


@contextmanager
def no_worker(redis_url: str, folder: Path, **more: str) -> Iterator[Side]:
    """A ledger and an empty Redis, with no worker and no relay yet."""
    environ = environment(f"sqlite:///{folder / 'test.db'}", redis_url, **more)
    connect(redis_url).flushall()
    runtime = fresh(environ)
    try:
        yield Side("rq", runtime, environ)
    finally:
        runtime.db.dispose()


CURRENT_KEY = "sig_current_0123456789abcdefghijklmnop"
NEXT_KEY = "sig_next_0123456789abcdefghijklmnopqrs"


def qstash_environment(standin_url: str, app_url: str) -> dict[str, str]:
    """What an app needs for QStash, in local mode."""
    return {
        "QSTASH_URL": standin_url,
        "QSTASH_CURRENT_SIGNING_KEY": CURRENT_KEY,
        "QSTASH_NEXT_SIGNING_KEY": NEXT_KEY,
        "BACKEND_URL": app_url,
    }


@contextmanager
def side(
    backend: str, database_url: str, redis_url: str, folder: Path, **more: str
) -> Iterator[Side]:
    """Everything one backend needs, started and stopped; `more` is for its environment.

    With @serverless after its name the app is a fresh process a request.
    """
    environ = environment(database_url, redis_url, **more)
    if backend != "memory":
        name, at, _ = backend.partition("@")
        if at:  # a process takes a second to begin, and is not to be thought lost by then
            environ |= {"CHECK_SECONDS": "15"}
        with parts(environ, folder, name, serverless=bool(at)) as working:
            yield working
        return
    with in_memory(database_url, **environ) as working:
        yield working


@contextmanager
def in_memory(database_url: str, **more: str) -> Iterator[Side]:
    """A queue in this process and a relay: there is no other process."""
    memory = MemoryBackend()
    environ = environment(database_url, "redis://127.0.0.1:1/0") | more
    runtime = fresh(environ, [memory])
    with relaying(runtime):
        yield Side("memory", runtime, environ, memory=memory)
    runtime.db.dispose()


@contextmanager
def both(database_url: str, redis_url: str, folder: Path, **more: str) -> Iterator[Side]:
    """All backends side by side on one ledger; `side.backend` may be changed at will."""
    environ = environment(database_url, redis_url, **more)
    with parts(environ, folder, "rq", "inngest", "qstash") as working:
        yield working


@contextmanager
def qstash_side(environ: dict[str, str], *, relay: bool = True) -> Iterator[Side]:
    """The app served in a thread, with a QStash of its own and maybe a relay."""
    # Where no relay resends, an answer that is slow to come must not count as none.
    with (
        patch.object(qstash, "ANSWER_SECONDS", PATIENCE_SECONDS),
        parts(environ, Path(), "qstash", relay=relay) as working,
    ):
        yield working


@contextmanager
def parts(
    environ: dict[str, str],
    folder: Path,
    *backends: str,
    relay: bool = True,
    serverless: bool = False,
) -> Iterator[Side]:
    """A worker, and the app served to stand-ins, as far as these backends need them; if it is to be
    `serverless`, by a fresh process a request."""
    with ExitStack() as stack:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        standin = messages = None
        if "inngest" in backends:
            standin = InngestStandIn([f"{url}/api/inngest"], gap_scale=0.02)
            stack.enter_context(standin)
            environ["INNGEST_DEV"] = standin.url
        if "qstash" in backends:
            messages = QStashStandIn(LOCAL_QSTASH_TOKEN, CURRENT_KEY, gap_scale=0.02)
            stack.enter_context(messages)
            environ |= qstash_environment(messages.url, url) | environ
        fresh(environ).db.dispose()
        app = build(load(environ))
        runtime = current()
        stack.callback(runtime.db.dispose)
        if standin or messages:
            served = FreshProcesses(environ) if serverless else app
            stack.enter_context(serve_in_thread(served, port))
        if standin:
            standin.sync()
        if "rq" in backends:
            stack.enter_context(rq_worker(environ, folder / "worker.log"))
        if relay:
            stack.enter_context(relaying(runtime))
        yield Side(backends[0], runtime, environ, standin=standin, qstash=messages)


@contextmanager
def web(environ: dict[str, str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The web process as the Procfile starts it."""
    command = [
        *("-m", "gunicorn", "app.server:app", "--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "app.buffered.Worker", "--threads", "8", "--graceful-timeout", "5"),
    ]
    with log.open("ab") as out:
        process = Forked(command, env=environ, stdout=out, stderr=out, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

"""Processes that die at every point they come to, and come back at once.

`python -m tests.support.dying` is a supervisor of one real `rq worker`: it has everything imported
and forks a new one whenever one was killed, so that a death costs no start.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from tests.support.forks import Forked
from tests.support.sides import WORKER, Side, environment, free_port, fresh, relaying
from tests.support.standins import InngestStandIn

PLACES = [("rq", "sqlite"), ("inngest", "postgres"), ("rq", "postgres"), ("inngest", "sqlite")]
"""Backends and databases: each half has both of each."""


@contextmanager
def mortal(
    backend: str, database_url: str, redis_url: str, folder: Path, **more: str
) -> Iterator[Side]:
    """A ledger, and an Inngest, for what will be performed by processes that die: see `dying`."""
    port = free_port()
    with InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"], gap_scale=0.01) as standin:
        more |= {"INNGEST_DEV": standin.url, "LEASE_SECONDS": "0.5", "CHECK_SECONDS": "0.3"}
        more |= {"PORT": str(port), "SWITCHYARD_CRASH_EACH": str(folder / "deaths")}
        environ = environment(database_url, redis_url, **more)
        runtime = fresh(environ)
        try:
            yield Side(backend, runtime, environ, standin=standin)
        finally:
            runtime.db.dispose()


@contextmanager
def dying(on: Side, log: Path) -> Iterator[None]:
    """A relay, and what performs the backend's runs, killed once at each point of each step."""
    command = ["-m", "tests.support.dying"]
    if on.backend == "inngest":
        bind = f"127.0.0.1:{on.environ['PORT']}"
        command = ["-m", "gunicorn", "app.server:app", "--preload", "--bind", bind]
        command += ["--worker-class", "app.buffered.Worker", "--threads", "8"]
    with ExitStack() as stack:
        stack.enter_context(relaying(on.runtime))
        out = stack.enter_context(log.open("ab"))
        process = Forked(command, env=on.environ, stdout=out, stderr=out, start_new_session=True)
        try:
            if on.backend == "inngest" and on.standin is not None:
                on.standin.sync()
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def deaths(on: Side) -> set[str]:
    """Where they have died so far: `point@step`."""
    return set(Path(on.environ["SWITCHYARD_CRASH_EACH"]).read_text().split())


def supervise() -> None:
    """Fork a worker, and another one for each that is killed, until SIGTERM."""
    from rq.cli.cli import main

    for module in ("queues.worker", "app", *os.environ["SWITCHYARD_JOBS"].split(",")):
        importlib.import_module(module)
    child = 0

    def stop(_signum: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            main(WORKER[2:], standalone_mode=False)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the worker ended by itself: {status}")


if __name__ == "__main__":
    supervise()

"""Processes that die at every point they come to, and come back at once.

`python -m tests.support.dying` is a supervisor of one real `rq worker`: it has everything imported
and forks a new one whenever one was killed, so that a death costs no start.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from tests.support.forks import Forked

PLACES = [("rq", "sqlite"), ("inngest", "postgres"), ("rq", "postgres"), ("inngest", "sqlite")]
"""Backends and databases: each half has both of each."""
WORKER = ["worker", "--config", "queues.settings", "--worker-class", "queues.worker.Worker"]


@contextmanager
def dying(backend: str, environ: dict[str, str], port: int, log: Path) -> Iterator[None]:
    """What carries the backend's runs, killed once at each point of each step it comes to."""
    if backend == "rq":
        command = ["-m", "tests.support.dying"]
    else:
        command = [
            *("-m", "gunicorn", "app.server:app", "--preload"),
            *(
                "--bind",
                f"127.0.0.1:{port}",
                "--worker-class",
                "app.buffered.Worker",
                "--threads",
                "8",
            ),
        ]
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab"))
        process = Forked(command, env=environ, stdout=out, stderr=out, start_new_session=True)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def supervise() -> None:
    """Fork a worker, and another one for each that is killed, until SIGTERM."""
    from rq.cli.cli import main

    import app.switchyard.extension
    import queues.worker

    assert app.switchyard.extension is not None
    assert queues.worker is not None
    child = 0

    def stop(_signum: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            main(WORKER, standalone_mode=False)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the worker ended by itself: {status}")


if __name__ == "__main__":
    supervise()

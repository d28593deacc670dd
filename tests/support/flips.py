"""Many delayed runs on RQ and QStash while the flag flips, and a QStash that has a bad day."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import requests
from sqlalchemy import func, select

import flags
from app.switchyard import runtime
from app.switchyard.clock import utcnow
from app.switchyard.context import Payload
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.runs.models import RunRow
from tests.support.forks import Forked
from tests.support.sides import (
    decide_by,
    environment,
    free_port,
    fresh,
    qstash_environment,
    relaying,
    rq_worker,
    web,
)
from tests.support.waiting import PATIENCE_SECONDS, until

FLIP_SECONDS = 0.1


class Flipping(flags.Flags):
    """RQ, then QStash, then RQ, each for FLIP_SECONDS."""

    def decide(self, job: str, key: str) -> flags.Decision:
        at = int(time.monotonic() / FLIP_SECONDS)
        return flags.Decision(("rq", "qstash")[at % 2], "STATIC", "live", at)

    def __init__(self) -> None:
        """Nothing to load."""


@dataclass
class Yard:
    """The product over RQ and a QStash stand-in that is a process of its own."""

    made: runtime.Runtime
    environ: dict[str, str]
    command: list[str]
    log: Path
    port: int
    qstash: subprocess.Popen[bytes] = field(init=False)

    def start_qstash(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as out:
            self.qstash = Forked(self.command, env=self.environ, stdout=out, stderr=out)
        until(self._answers, self.log.read_text)

    def _answers(self) -> bool:
        try:
            requests.get(f"http://127.0.0.1:{self.port}/", timeout=PATIENCE_SECONDS)
        except requests.ConnectionError:
            return False
        return True

    def restart_qstash(self) -> None:
        """Kill it, as a machine that is lost; its file stays."""
        self.stop_qstash()
        self.start_qstash()

    def stop_qstash(self) -> None:
        self.qstash.kill()
        self.qstash.wait()

    def open_runs(self) -> int:
        """How many runs are not done with."""
        count = select(func.count()).where(RunRow.check_at.is_not(None))
        with self.made.db.autocommit() as connection:
            return connection.scalar(count) or 0

    def by_backend(self) -> dict[str, int]:
        """How many runs each side was given."""
        counts = select(RunRow.backend, func.count()).group_by(RunRow.backend)
        with self.made.db.autocommit() as connection:
            return {row[0]: row[1] for row in connection.execute(counts)}


@contextmanager
def yard(database_url: str, redis_url: str, folder: Path, **more: str) -> Iterator[Yard]:
    """RQ with a worker, QStash delivering a tenth twice and all out of order, web and relay."""
    with ExitStack() as stack:
        port, standin = free_port(), free_port()
        urls = (f"http://127.0.0.1:{standin}", f"http://127.0.0.1:{port}")
        environ = environment(database_url, redis_url, **qstash_environment(*urls), **more)
        made = fresh(database_url, environ, None)
        stack.callback(made.db.dispose)
        command = [
            *("-m", "tests.support.standins", "--port", str(standin)),
            *("--data", str(folder / "qstash.db")),
        ]
        here = Yard(made, environ, command, folder / "qstash.log", standin)
        here.start_qstash()
        stack.callback(here.stop_qstash)
        stack.enter_context(web(environ, port, folder / "web.log"))
        stack.enter_context(rq_worker(environ, folder / "worker.log"))
        stack.enter_context(relaying(made))
        runtime.install(made)
        yield here


def delayed_through_flips(
    here: Yard, job: str, payloads: Sequence[Payload], *, batch: int = 25
) -> None:
    """Dispatch them all, due one after the other while the flag flips and QStash restarts once.

    Returns when every run is done with; what each did is the caller's to count.
    """
    decide_by(Flipping())
    began = utcnow()
    first, last = began + timedelta(seconds=5), began + timedelta(seconds=10)
    step = (last - first) / len(payloads)
    restart, dice = threading.Timer(7.0, here.restart_qstash), Random(7)
    restart.start()
    for start in range(0, len(payloads), batch):
        dispatch_many(job, _items(payloads, start, batch, first, step))
        # Never in step with the flips, however long a dispatch takes here: both sides get some.
        time.sleep(dice.uniform(0, 2 * FLIP_SECONDS))
    restart.join()
    until(lambda: not here.open_runs(), lambda: f"{here.open_runs()} runs are not done with")


def _items(
    payloads: Sequence[Payload], start: int, batch: int, first: datetime, step: timedelta
) -> list[Any]:
    chosen = payloads[start : start + batch]
    return [Item(one, at=first + step * (start + i)) for i, one in enumerate(chosen)]

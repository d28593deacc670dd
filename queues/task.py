"""What an RQ worker calls: one slice of one run."""

from __future__ import annotations

import logging
import os
import threading
from functools import cache

from app import create_app
from app.switchyard import runtime
from app.switchyard.runs.carrier import Carrier

log = logging.getLogger(__name__)

stopping = threading.Event()
"""Set by the worker when it is asked to stop: the run in hand ends at its next step boundary."""


class WorkerCarrier(Carrier):
    """Carries a run in a worker process."""

    def stopping(self) -> bool:
        """Whether the worker was asked to stop."""
        return stopping.is_set()


@cache
def wired(pid: int) -> runtime.Runtime:
    """This process's runtime, made at its first job; a forked work horse makes its own."""
    create_app()
    return runtime.current()


def perform(run_id: str, epoch: int) -> str:
    """Do one slice of the run. What becomes of it is in the ledger, so it raises only where the
    ledger itself cannot be reached; the run's lease then runs out and the relay takes it over."""
    carrier = WorkerCarrier(f"rq-{os.getpid()}-{os.urandom(6).hex()}")
    outcome = wired(os.getpid()).engine.perform(str(run_id), int(epoch), carrier)
    return str(outcome.end)

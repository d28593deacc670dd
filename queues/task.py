"""What an RQ worker calls: one slice of a run, or the wait for one that other RQ jobs depend on."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.errors import SwitchyardError
from app.switchyard.loading import load_app, process_runtime
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.text import reason
from queues import versions

log = logging.getLogger(__name__)

LOOK_SECONDS = 5
_LOOKS = 10 * 365 * 24 * 3600 // LOOK_SECONDS
"""Ten years: RQ wants a number."""

stopping = threading.Event()
"""Set by the worker when it is asked to stop: the run in hand ends at its next step boundary."""


def perform(run_id: str, epoch: int) -> str:
    """Do one slice of the run. What becomes of it is in the ledger, so it raises only where the
    ledger itself cannot be reached; the run's lease then runs out and the relay takes it over."""
    delivery = Delivery(f"rq-{os.getpid()}-{os.urandom(6).hex()}", stopping.is_set)
    with load_app().app_context():
        outcome = process_runtime().engine.perform(str(run_id), int(epoch), delivery)
    return str(outcome.end)


class RunFailed(SwitchyardError):
    """The run that this job stands for failed or was cancelled."""


def wait_for_run(run_id: str) -> Any:
    """The run's result, once it has one; until then RQ's scheduler asks again.

    Raises RunFailed, so that RQ treats those who depend on it as with any failed job.
    """
    chosen = select(R.status, R.result, R.error).where(R.id == run_id)
    try:
        with process_runtime().db.autocommit() as connection:
            row = connection.execute(chosen).one_or_none()
    except SQLAlchemyError as failure:
        log.warning("run not looked at", extra={"run": run_id, "reason": reason(failure)})
        return versions.again(LOOK_SECONDS, _LOOKS)
    if row is None:
        raise RunFailed(f"no run {run_id!r}")
    if row.status in OPEN:
        return versions.again(LOOK_SECONDS, _LOOKS)
    if row.status != Status.SUCCEEDED:
        raise RunFailed(f"run {run_id} {row.status}: {row.error}")
    return None if row.result is None else json.loads(row.result)

"""The functions that RQ jobs name: one performs a slice of a run, the other waits for a run."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.errors import SwitchyardError
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Delivery
from app.switchyard.runs.models import OPEN, RUN_ID, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import load_app, process_runtime
from app.switchyard.text import reason
from queues import versions

log = logger_of(__name__)

LOOK_SECONDS = 5

stopping = threading.Event()
"""The worker sets it when it is asked to stop. The current run stops at its next step boundary."""


def perform(run_id: str, epoch: int) -> str:
    """Perform one slice of the run.

    The outcome is in the ledger, so this raises only where the ledger is unreachable; the run's
    lease then runs out, and the relay takes the run over.
    """
    delivery = Delivery(f"rq-{os.getpid()}-{os.urandom(6).hex()}", stopping.is_set)
    with load_app().app_context():
        outcome = process_runtime().engine.perform(str(run_id), int(epoch), delivery)
    return str(outcome.end)


class RunFailed(SwitchyardError):
    """The run behind this job failed or was cancelled."""


def wait_for_run(run_id: str) -> Any:
    """The run's result once it has one. Until then RQ's scheduler asks again.

    Raises RunFailed, so that RQ treats dependent jobs as it does after any failed job.
    """
    if RUN_ID.fullmatch(str(run_id)) is None:
        raise RunFailed(f"no run {run_id!r}")
    chosen = select(R.status, R.result, R.error).where(R.id == str(run_id))
    try:
        with process_runtime().db.autocommit() as connection:
            row = connection.execute(chosen).one_or_none()
    except SQLAlchemyError as failure:
        log.warning("run not looked at", extra={"run": run_id, "reason": reason(failure)})
        return versions.again(LOOK_SECONDS)
    if row is None:
        raise RunFailed(f"no run {run_id!r}")
    if row.status in OPEN:
        return versions.again(LOOK_SECONDS)
    if row.status != Status.SUCCEEDED:
        raise RunFailed(f"run {run_id} {row.status}: {row.error}")
    return None if row.result is None else json.loads(row.result)

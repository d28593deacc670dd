"""An RQ job that stands for a run of the ledger: what other RQ jobs may depend on."""

from __future__ import annotations

import json
import logging
from typing import Any

from rq import Retry
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.errors import SwitchyardError
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from queues.dispatched import parts

log = logging.getLogger(__name__)

BRIDGE = "queues.bridge.wait_for_run"
LOOK_SECONDS = 5
_LOOKS = 10 * 365 * 24 * 3600 // LOOK_SECONDS
"""Ten years: RQ wants a number."""


class RunFailed(SwitchyardError):
    """The run that this job stands for failed or was cancelled."""


def wait_for_run(run_id: str) -> Any:
    """The run's result, once it has one; until then RQ's scheduler asks again.

    Raises RunFailed, so that RQ treats those who depend on it as with any failed job.
    """
    chosen = select(R.status, R.result, R.error).where(R.id == run_id)
    again = Retry(max=_LOOKS, interval=LOOK_SECONDS)
    try:
        with parts().db.autocommit() as connection:
            row = connection.execute(chosen).one_or_none()
    except SQLAlchemyError as failure:
        log.warning("run not looked at", extra={"run": run_id, "reason": type(failure).__name__})
        return again
    if row is None:
        raise RunFailed(f"no run {run_id!r}")
    if row.status in OPEN:
        return again
    if row.status != Status.SUCCEEDED:
        raise RunFailed(f"run {run_id} {row.status}: {row.error}")
    return None if row.result is None else json.loads(row.result)

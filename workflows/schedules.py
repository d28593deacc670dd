"""The migration guide's own calls: have QStash tick a job, from a script or a shell."""

from __future__ import annotations

from app.switchyard.loading import process_runtime
from workflows.sync import connect, create


def schedule_payouts() -> str:
    """Have QStash start the payouts on the 1st and 15th, 09:00 UTC; the schedule's id.

    Raises BackendUnavailable. Done again it changes nothing, and `qstash sync` does it as well.
    """
    return schedule_job("process-payouts")


def schedule_nightly_rollup() -> str:
    """Have QStash start the daily earnings rollup, 02:00 UTC; the schedule's id.

    Raises BackendUnavailable.
    """
    return schedule_job("daily-earnings-rollup")


def schedule_job(name: str) -> str:
    """Have QStash tick one job of the catalogue as it says. Raises UnknownJob."""
    runtime = process_runtime()
    client = connect(runtime.settings)
    return create(client, runtime.settings, runtime.catalogue[name])

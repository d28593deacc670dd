"""The migration guide's own calls, which make QStash tick a job, for scripts and shells."""

from __future__ import annotations

from app.switchyard.runtime import process_runtime
from workflows.sync import connect, create


def schedule_payouts() -> str:
    """Make QStash start the payouts on the 1st and 15th at 09:00 UTC. Returns the schedule's id.

    A second call changes nothing, and `qstash sync` does the same. Raises BackendUnavailable.
    """
    return schedule_job("process-payouts")


def schedule_nightly_rollup() -> str:
    """Make QStash start the daily earnings rollup at 02:00 UTC. Returns the schedule's id.

    Raises BackendUnavailable.
    """
    return schedule_job("daily-earnings-rollup")


def schedule_job(name: str) -> str:
    """Make QStash tick a job on the schedule in its declaration. Raises UnknownJob."""
    runtime = process_runtime()
    client = connect(runtime.settings)
    return create(client, runtime.settings, runtime.catalogue[name])

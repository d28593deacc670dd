"""The migration guide's own calls: have QStash tick a job, from a script or a shell."""

from __future__ import annotations

import app
from app.switchyard import runtime
from app.switchyard.errors import SwitchyardError
from app.switchyard.runtime import Runtime
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
    made = _runtime()
    client = connect(made.settings)
    return create(client, made.settings, made.catalogue[name])


def _runtime() -> Runtime:
    """This process's parts; a script that has none gets them made."""
    try:
        return runtime.current()
    except SwitchyardError:
        return app.wire()

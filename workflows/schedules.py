"""Schedules as code: QStash has one schedule for each scheduled job of the catalogue. The migration
guide's own calls, for scripts and shells, are here too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.switchyard.config import Settings
from app.switchyard.cron import portable
from app.switchyard.errors import SettingsError
from app.switchyard.job import JobSpec
from app.switchyard.runtime import Runtime, process_runtime
from workflows.qstash import ID_PREFIX, LABEL, RETRIES, address, asking, make_client

if TYPE_CHECKING:  # the package is an extra
    from qstash import QStash
    from qstash.schedule import Schedule

TRIGGER = "/api/inngest/trigger"


@dataclass(slots=True)
class Synced:
    """The ids of the schedules that a sync changed, or would change, in the catalogue's order."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def sync(runtime: Runtime, *, dry_run: bool = False) -> Synced:
    """Make QStash's schedules match the catalogue's. Only ids of our own are touched.

    A sync that is interrupted is completed by the next one. Raises BackendUnavailable.
    """
    client = connect(runtime.settings)
    there = {schedule.schedule_id: schedule for schedule in ours(client)}
    done = Synced()
    for spec in runtime.catalogue.values():
        if spec.schedule is None:
            continue
        id = schedule_id(spec)
        known = there.pop(id, None)
        if known is not None and _is_as(_wanted(runtime.settings, spec), known):
            done.unchanged.append(id)
            continue
        (done.new if known is None else done.changed).append(id)
        if not dry_run:
            create(client, runtime.settings, spec)
    done.removed = sorted(there)
    for id in done.removed if not dry_run else ():
        with asking():
            client.schedule.delete(id)
    return done


def connect(settings: Settings) -> QStash:
    """A client for schedules. Raises SettingsError where one of its two settings is missing."""
    if settings.qstash_secret is None or settings.backend_url is None:
        name = "QSTASH_TOKEN" if settings.qstash_secret is None else "BACKEND_URL"
        raise SettingsError(f"{name} is not set: schedules at QStash need it")
    return make_client(settings)


def ours(client: QStash) -> list[Schedule]:
    """The schedules at QStash whose id and target are ours. Raises BackendUnavailable."""
    with asking():
        ticks = [one for one in client.schedule.list() if one.destination.endswith(TRIGGER)]
        return [one for one in ticks if one.schedule_id.startswith(ID_PREFIX)]


def schedule_id(spec: JobSpec) -> str:
    """The id of the job's schedule at QStash."""
    return f"{ID_PREFIX}{spec.name}"


def create(client: QStash, settings: Settings, spec: JobSpec) -> str:
    """Create or overwrite the schedule. One paused at QStash resumes only if it changes."""
    wanted = _wanted(settings, spec)
    with asking():
        return client.schedule.create_json(schedule_id=schedule_id(spec), label=LABEL, **wanted)


def _wanted(settings: Settings, spec: JobSpec) -> dict[str, Any]:
    """What QStash is to have of the job's schedule. Raises SettingsError where it has none."""
    if spec.schedule is None:
        raise SettingsError(f"job {spec.name!r} has no schedule")
    return {
        "destination": address(settings, TRIGGER),
        "cron": portable(spec.schedule),
        "body": {"name": spec.event, "data": {}},
        "method": "POST",
        "retries": RETRIES,
    }


def _is_as(wanted: dict[str, Any], known: Schedule) -> bool:
    try:
        body = json.loads(known.body or "")
    except ValueError:
        return False
    return wanted == {name: getattr(known, name) for name in wanted} | {"body": body}


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

"""Schedules as code: QStash ticks the trigger endpoint for each scheduled job of the catalogue."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from qstash import QStash
from qstash.schedule import Schedule

from app import create_app, runtime
from app.config import Settings
from app.cutover.clocks import tick
from app.dispatch import dispatch
from app.errors import BackendUnavailable, SettingsError, SwitchyardError, Unauthorized
from app.jobs.catalogue import JobSpec
from app.runs.run import Run
from app.runtime import Runtime
from workflows.qstash import ID_PREFIX, LABEL, RETRIES, address, asked, find, make_client, moment
from workflows.signature import Signed

TRIGGER = "/api/inngest/trigger"
NEAR = timedelta(minutes=1)
"""How far behind its scheduled time QStash may make a tick's message."""


@dataclass(slots=True)
class Synced:
    """What a sync changed, or would change: schedule ids, in the catalogue's order."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


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
    return _create(client, made.settings, made.catalogue[name])


def sync(made: Runtime, *, dry_run: bool = False) -> Synced:
    """Converge QStash's schedules with the catalogue. Only ids of our own are touched.

    Stopped half way it has done half, and the next one does the rest. Raises BackendUnavailable.
    """
    client = connect(made.settings)
    there = {schedule.schedule_id: schedule for schedule in ours(client)}
    done = Synced()
    for spec in made.catalogue.values():
        if spec.schedule is None:
            continue
        id = schedule_id(spec)
        known = there.pop(id, None)
        if known is not None and _same(known, made.settings, spec):
            done.unchanged.append(id)
            continue
        (done.new if known is None else done.changed).append(id)
        if not dry_run:
            _create(client, made.settings, spec)
    done.removed = sorted(there)
    for id in done.removed if not dry_run else ():
        asked(partial(client.schedule.delete, id))
    return done


def connect(settings: Settings) -> QStash:
    """A client to keep schedules with. Raises SettingsError where one of its two settings lacks."""
    if settings.qstash_secret is None or settings.backend_url is None:
        name = "QSTASH_TOKEN" if settings.qstash_secret is None else "BACKEND_URL"
        raise SettingsError(f"{name} is not set: schedules at QStash need it")
    return make_client(settings)


def ours(client: QStash) -> list[Schedule]:
    """The schedules there that are ours by id and by what they call. Raises BackendUnavailable."""
    listed = asked(client.schedule.list)
    return [s for s in listed if s.schedule_id.startswith(ID_PREFIX) and _ticks(s.destination)]


def schedule_id(spec: JobSpec) -> str:
    """What the job's schedule is called at QStash."""
    return f"{ID_PREFIX}{spec.name}"


def _ticks(destination: str) -> bool:
    return destination.endswith(TRIGGER)


def _create(client: QStash, settings: Settings, spec: JobSpec) -> str:
    """Create or overwrite; a schedule that was paused there runs again only if it is changed."""
    if spec.schedule is None:
        raise SettingsError(f"job {spec.name!r} has no schedule")
    cron = spec.schedule
    return asked(
        lambda: client.schedule.create_json(
            schedule_id=schedule_id(spec),
            destination=address(settings, TRIGGER),
            cron=cron,
            body=_body(spec),
            method="POST",
            retries=RETRIES,
            label=LABEL,
        )
    )


def _body(spec: JobSpec) -> dict[str, Any]:
    return {"name": spec.event, "data": {}}


def _same(known: Schedule, settings: Settings, spec: JobSpec) -> bool:
    try:
        body = json.loads(known.body or "")
    except ValueError:
        return False
    there = (known.destination, known.cron, known.method, known.retries, body)
    return there == (address(settings, TRIGGER), spec.schedule, "POST", RETRIES, _body(spec))


def _runtime() -> Runtime:
    """This process's parts; a script that has none gets them made."""
    try:
        return runtime.current()
    except SwitchyardError:
        create_app()
        return runtime.current()


@dataclass(frozen=True, slots=True)
class Call:
    """A trigger call that QStash made: its signature, and the headers beside it."""

    signed: Signed
    message_id: str | None
    schedule_id: str | None
    retried: bool


def start(made: Runtime, spec: JobSpec, data: dict[str, Any], key: str | None, call: Call) -> Run:
    """The run that a signed trigger call means; the same message again is the same run.

    A schedule's call with no data is a tick of the job's own schedule, so it becomes the run that
    any other clock's tick of that occurrence became. Raises BackendUnavailable where nobody can say
    which occurrence it is; QStash then comes again.
    """
    if call.schedule_id is not None and spec.schedule is not None and not data and key is None:
        made_at = _made_at(made, spec, call)
        occurrence = spec.occurrence_at(made_at)
        # One made by hand, as the migration guide shows, is a tick where it ticks in time with us.
        if call.schedule_id == schedule_id(spec) or made_at - occurrence < NEAR:
            return tick(spec, occurrence)
    if key is None and spec.key is None:
        key = f"qstash:{call.message_id or call.signed.token_id}"[:255]
    return dispatch(spec.name, data, key=key)


def _made_at(made: Runtime, spec: JobSpec, call: Call) -> datetime:
    """When the schedule made this message: what a tick's occurrence follows from.

    A signature tells only of its own delivery, which may be hours late, so QStash is asked about
    the message. A first delivery of one that it does not know speaks for itself, and so does one
    in time while it cannot be asked.
    """
    signed_at = datetime.fromtimestamp(call.signed.issued_at, UTC)
    first, stored = not call.retried, None
    unknown = BackendUnavailable("qstash: it does not know the tick's message")
    try:
        if call.message_id is not None:
            stored = find(make_client(made.settings), call.message_id)
    except BackendUnavailable as failure:
        unknown = failure
        first &= signed_at - spec.occurrence_at(signed_at) < NEAR
    if stored is not None:
        if stored.schedule_id != call.schedule_id:
            raise Unauthorized("the message is of another schedule")
        return moment(stored.created_at)
    if first:
        return signed_at
    raise unknown

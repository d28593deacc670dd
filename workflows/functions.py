"""The catalogue's Inngest functions. Each call performs one slice of one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import inngest
from flask import request

from app.switchyard.clock import iso, moment, utcnow
from app.switchyard.cron import portable
from app.switchyard.cutover.clock import occurrence_of, tick
from app.switchyard.db import canonical_json
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.http import read
from app.switchyard.job import JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs import operate
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runtime import Runtime
from app.switchyard.text import plain
from workflows.backend import FURTHEST, MARK, showable
from workflows.client import APP_ID, CANCELLED
from workflows.service import Named

log = logger_of(__name__)

CANCELLED_EVENT = "inngest/function.cancelled"
CRON_EVENT = "inngest/scheduled.timer"
UTC_ZONE = "TZ=UTC "
"""A cron's prefix. Without a zone, a self-hosted server ticks in its machine's."""
INVOKED = "inngest/function.invoked"
OWN = "_inngest"
"""The field that Inngest adds to an event's data when the function is invoked, say from its
dashboard."""
MOST_RETRIES = 20
MOST_KEPT_BYTES = 512 * 1024
"""Each call has all of it, and the SDK makes it canonical. Beyond 4 MiB each call has to ask for
the state, and with 32 MiB the run fails."""
ROUNDED = timedelta(seconds=0.5)
"""Inngest rounds a sleep to whole seconds. With this added, it is never too short."""


class InngestDelivery(Delivery):
    """One call from Inngest, for several steps that together take a second or so: each call costs,
    and the ledger knows what is done. Inngest calls again, perhaps in another process, after each
    step that is reported to it."""

    calls_again = True

    def __init__(self, context: inngest.ContextSync, seconds: float) -> None:
        holder = f"inngest-{plain('the run id', context.run_id, 50)}"
        super().__init__(holder, sent_at=_created_at(context.event))
        self._context = context
        self._until = time.monotonic() + seconds
        self._ends = False

    def is_signal(self, failure: BaseException) -> bool:
        """Whether the SDK raised it."""
        return type(failure).__module__.partition(".")[0] == inngest.__name__

    def ends(self) -> bool:
        """Whether the call's time is up. A step that is retried is reported too: Inngest counts
        attempts per call, and starts again after each reported step."""
        self._ends = self._context.attempt > 0 or time.monotonic() >= self._until
        return self._ends

    def run_step(self, name: str, attempt: Callable[[], Any]) -> Any:
        """Make the attempt. If the slice ends with it, it is also a step of Inngest's."""
        result = attempt()
        if self._ends:
            kept = len(request.get_data())
            self._context.step.run(name, lambda: shown(result, kept))
        return result


def shown(result: object, kept: int = 0) -> object:
    """What Inngest keeps of a result: all of it, unless it is large, or `kept`, the bytes that
    Inngest already keeps of the run, are many. The ledger has it, and Inngest sends everything it
    keeps of a run with each call."""
    text = canonical_json(result)
    if kept <= MOST_KEPT_BYTES and showable(text):
        return result
    return {"switchyard": f"{len(text)} bytes of JSON, which the ledger has"}


def make_functions(client: inngest.Inngest, runtime: Runtime) -> list[inngest.Function[Any]]:
    """One function per job, and the one for cancelled runs."""
    return [
        _cancelled(client, runtime),
        *(_function(client, runtime, spec) for spec in runtime.catalogue.values()),
    ]


def _function(client: inngest.Inngest, runtime: Runtime, spec: JobSpec) -> inngest.Function[Any]:
    triggers: list[inngest.TriggerCron | inngest.TriggerEvent] = [
        inngest.TriggerEvent(event=spec.event)
    ]
    # A job of QStash's has a function for its events only, which become runs on its own side.
    if spec.schedule is not None and spec.serverless == "inngest":
        triggers.append(inngest.TriggerCron(cron=f"{UTC_ZONE}{portable(spec.schedule)}"))
    limit = spec.concurrency

    @client.create_function(
        fn_id=spec.name,
        trigger=triggers,
        # Inngest also counts calls that never reached the app. The ledger's own count decides.
        retries=min(MOST_RETRIES, spec.attempts - 1),
        concurrency=None if limit is None else [inngest.Concurrency(limit=limit)],
    )
    def handle(context: inngest.ContextSync) -> Any:
        return _handle(runtime, spec, context)

    return handle


def _cancelled(client: inngest.Inngest, runtime: Runtime) -> inngest.Function[Any]:
    """The function that cancels here what was cancelled at Inngest."""

    @client.create_function(fn_id=CANCELLED, trigger=inngest.TriggerEvent(event=CANCELLED_EVENT))
    def handle(context: inngest.ContextSync) -> Any:
        if context.event.name != CANCELLED_EVENT:  # the call's URL, which is not signed, names us
            raise inngest.NonRetriableError(f"the event does not belong to {CANCELLED}")
        there, original = context.event.data.get("run_id"), context.event.data.get("event")
        data = original.get("data") if isinstance(original, dict) else None
        try:
            named = read(Named, data.get(MARK) if isinstance(data, dict) else None)
        except BadInput:
            return {"cancelled": False}
        holder = f"inngest-{there}"
        done = operate.cancelled_there(runtime.store, named.run, named.epoch, holder)
        return {"runId": named.run, "cancelled": done}

    return handle


def _handle(runtime: Runtime, spec: JobSpec, context: inngest.ContextSync) -> Any:
    mark = context.event.data.get(MARK)
    try:
        if not isinstance(mark, dict):
            return _adopt(spec, context.event)
        named = read(Named, mark)
        delivery = InngestDelivery(context, runtime.settings.inngest_call_seconds)
    except BadInput as misfit:
        raise inngest.NonRetriableError(str(misfit)) from None
    return _answer(context, runtime.engine.perform(named.run, named.epoch, delivery))


def _adopt(spec: JobSpec, event: inngest.Event) -> dict[str, Any]:
    """Make a run of an event that did not come from dispatch(). Raises BadInput."""
    if not _is_of(spec, event):
        raise BadInput(f"the event does not belong to job {spec.name}")
    if event.name == CRON_EVENT:
        run = tick(spec, occurrence_of(spec, _fired(event)))
    else:
        data = {name: value for name, value in event.data.items() if name != OWN}
        run = dispatch(spec.name, data, key=None if spec.key else event.id or None)
    log.info("event adopted", extra={"job": spec.name, "run": run.id, "new": run.created})
    return {
        "runId": run.id,
        "backend": run.backend,
        "reason": run.reason,
        "created": run.created,
    }


def _is_of(spec: JobSpec, event: inngest.Event) -> bool:
    """Whether the event fits the function that the call's URL names. The event is signed and the
    URL is not: a captured call must not start another job."""
    if event.name == CRON_EVENT:
        cron = str(event.data.get("cron", spec.schedule)).removeprefix(UTC_ZONE)
        return spec.schedule is not None and cron in (spec.schedule, portable(spec.schedule))
    if event.name == INVOKED:
        own = event.data.get(OWN)
        said = own.get("fn_id") if isinstance(own, dict) else None
        return said in (None, f"{APP_ID}-{spec.name}")
    return event.name == spec.event


def _fired(event: inngest.Event) -> datetime | None:
    """The time for which a cron event was scheduled, UTC where it has no zone."""
    fired = _created_at(event)
    # Some servers do not give it, but name the event after it and create it seconds before.
    for said in (event.id, event.data.get("scheduledAt")):
        with suppress(ValueError):
            fired = datetime.fromisoformat(str(said))
    return fired if fired is None or fired.tzinfo else fired.replace(tzinfo=UTC)


def _created_at(event: inngest.Event) -> datetime | None:
    """When the event was created, or is to take effect. None for a time that is out of range."""
    with suppress(OverflowError):
        return moment(event.ts / 1000)
    return None


def _answer(context: inngest.ContextSync, outcome: Outcome) -> Any:
    """The answer to Inngest for the outcome of a slice."""
    now = utcnow()
    due = outcome.due_at or now
    match outcome.end:
        case End.DONE:
            return shown(outcome.result)
        case End.FAILED:
            raise inngest.NonRetriableError(outcome.error)
        case End.RETRY:
            raise inngest.RetryAfterError(str(outcome.error), due)
        case End.WAIT | End.NOT_DUE | End.BUSY:
            # A sleep costs no attempt, however long the earlier call takes.
            due = min(due, now + FURTHEST)
            context.step.sleep_until(f"until {iso(due)}", due + ROUNDED)
            # It has slept and is still too early, so the two clocks differ.
            raise inngest.RetryAfterError("not due yet", due + timedelta(seconds=1))
        case _:
            return {"superseded": True}

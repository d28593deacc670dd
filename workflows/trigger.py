"""POST /api/inngest/trigger: start a job by its event's name. A call from QStash may be a tick."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from flask import Blueprint, request
from pydantic import BaseModel, Field

from app.switchyard import nonces
from app.switchyard.clock import iso
from app.switchyard.cutover.clock import occurrence_of, tick
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable, Unauthorized
from app.switchyard.http import read_body, register_problems, require_admin, traced
from app.switchyard.job import JobSpec
from app.switchyard.runs.store import Run
from app.switchyard.runtime import Runtime
from workflows.qstash import find, make_client
from workflows.schedules import TRIGGER, schedule_id
from workflows.signature import HEADER, Signed, signed

MAX_BYTES = 1024 * 1024
"""The largest message that QStash accepts, for calls that it signed."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_TICK, _RUN = "tick", "run"
NEAR = timedelta(minutes=1)
"""How long after the scheduled time QStash may create a tick's message."""


class Trigger(BaseModel, extra="forbid", strict=True):
    """The body that starts a job."""

    name: Annotated[str, Field(min_length=1)]
    """The event's name."""
    data: dict[str, Any] | None = None
    id: Annotated[str, Field(min_length=1)] | None = None
    """The run's key. The same one again means the same run."""


def blueprint(runtime: Runtime) -> Blueprint:
    """The trigger endpoint."""
    pages = Blueprint("switchyard_trigger", __name__)
    register_problems(pages)
    traced(pages)

    @pages.post(TRIGGER)
    def trigger() -> tuple[dict[str, Any], int]:
        if HEADER in request.headers:
            call = signed(request, runtime.settings, TRIGGER, MAX_BYTES)
            body = read_body(Trigger, call.text)
        else:
            require_admin(request, runtime.settings)
            call, body = None, read_body(Trigger)
        spec = runtime.catalogue.by_event(body.name)
        data, key = body.data or {}, body.id
        if call is None or key is not None or (data and spec.key is not None):
            run = dispatch(spec.name, data, key=key)
        else:
            run = _run_of(runtime, spec, data, call)
        return {
            "runId": run.id,
            "job": run.job,
            "backend": run.backend,
            "reason": run.reason,
            "status": run.status,
            "created": run.created,
        }, 202

    return pages


def _run_of(runtime: Runtime, spec: JobSpec, data: dict[str, Any], call: Signed) -> Run:
    """The run of a signed call that names no key. The same message again is the same run.

    A schedule's call without data is a tick of the job's own schedule, and becomes the same run as
    any other clock's tick of that occurrence. A signature keeps its first meaning, whatever is sent
    beside it later. Raises BackendUnavailable where the occurrence cannot be determined; QStash
    then calls again.
    """
    nonce = f"qstash:{call.token_id}"
    meant = nonces.used_for(runtime.db, nonce)
    if meant is None:
        meant = nonces.use(runtime.db, nonce, _meant(runtime, spec, data, call), call.expires_at)
    what, _, of = meant.partition(" ")
    if what == _TICK:
        return tick(spec, datetime.fromisoformat(of))
    return dispatch(spec.name, data, key=of or None)


def _meant(runtime: Runtime, spec: JobSpec, data: dict[str, Any], call: Signed) -> str:
    message_id = request.headers.get("Upstash-Message-Id", "")
    if not _ID.fullmatch(message_id):  # it becomes part of a URL
        message_id = ""
    by = request.headers.get("Upstash-Schedule-Id")
    if by and spec.schedule is not None and not data:
        made_at = _made_at(runtime, spec, call, message_id, by)
        occurrence = occurrence_of(spec, made_at)
        # One created by hand, as in the migration guide, is a tick where its times match ours.
        if by == schedule_id(spec) or made_at - occurrence < NEAR:
            return f"{_TICK} {iso(occurrence)}"
    return _RUN if spec.key is not None else f"{_RUN} qstash:{message_id or call.token_id}"


def _made_at(runtime: Runtime, spec: JobSpec, call: Signed, message_id: str, by: str) -> datetime:
    """When the schedule `by` created this message, from which the tick's occurrence follows.

    A signature dates only its own delivery, which may be hours late, so QStash is asked about the
    message. The signature's date serves for the first delivery of a message that QStash does not
    know, and for a punctual one while QStash cannot be asked.
    """
    dated = request.headers.get("Upstash-Retried", "0") == "0"
    unknown = BackendUnavailable("qstash: it does not know the tick's message")
    stored = None
    try:
        if message_id:
            stored = find(make_client(runtime.settings), message_id)
    except BackendUnavailable as failure:
        unknown = failure
        dated &= call.issued_at - occurrence_of(spec, call.issued_at) < NEAR
    if stored is not None:
        if stored.schedule_id != by:
            raise Unauthorized("the message belongs to another schedule")
        return datetime.fromtimestamp(stored.created_at / 1000, UTC)
    if dated:
        return call.issued_at
    raise unknown

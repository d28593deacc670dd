"""POST /api/inngest/trigger: start a job by its event's name."""

from __future__ import annotations

import re
from typing import Annotated, Any

from flask import Blueprint, request
from pydantic import BaseModel, Field

from app.switchyard.dispatch import dispatch
from app.switchyard.http import read_body, register_problems, require_admin, traced
from app.switchyard.runtime import Runtime
from workflows.signature import HEADER, Signed, signed
from workflows.sync import TRIGGER
from workflows.ticks import Call, start

MAX_BYTES = 1024 * 1024
"""The largest message that QStash accepts, for calls that it signed."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


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
            call = _call(signed(request, runtime.settings, TRIGGER, MAX_BYTES))
            body = read_body(Trigger, call.signed.text)
        else:
            require_admin(request, runtime.settings)
            call, body = None, read_body(Trigger)
        spec = runtime.catalogue.by_event(body.name)
        data, key = body.data or {}, body.id
        if call is None:
            run = dispatch(spec.name, data, key=key)
        else:
            run = start(runtime, spec, data, key, call)
        return {
            "runId": run.id,
            "job": run.job,
            "backend": run.backend,
            "reason": run.reason,
            "status": run.status,
            "created": run.created,
        }, 202

    return pages


def _call(by: Signed) -> Call:
    headers = request.headers
    message_id = headers.get("Upstash-Message-Id", "")
    return Call(
        signed=by,
        message_id=message_id if _ID.fullmatch(message_id) else None,  # it becomes part of a URL
        schedule_id=headers.get("Upstash-Schedule-Id") or None,
        retried=headers.get("Upstash-Retried", "0") != "0",
    )

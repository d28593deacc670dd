"""POST /api/inngest/trigger: start a job by its event's name."""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Blueprint, request
from werkzeug.exceptions import BadRequest

from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.http import register_problems, require_admin
from app.switchyard.runtime import Runtime
from workflows.signature import HEADER, Signed, signed
from workflows.sync import TRIGGER
from workflows.ticks import Call, start

MAX_BYTES = 1024 * 1024
"""Of a call that QStash signed: the largest message it takes."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_FIELDS = {"name", "data", "id"}


def blueprint(runtime: Runtime) -> Blueprint:
    """The trigger endpoint."""
    pages = Blueprint("switchyard_trigger", __name__)
    register_problems(pages)

    @pages.post(TRIGGER)
    def trigger() -> tuple[dict[str, Any], int]:
        if HEADER in request.headers:
            call = _call(signed(request, runtime.settings, TRIGGER, MAX_BYTES))
            body = _body(call.signed.text)
        else:
            require_admin(request, runtime.settings)
            call, body = None, _body(None)
        spec = runtime.catalogue.by_event(body["name"])
        data, key = body.get("data") or {}, body.get("id")
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


def _body(signed: str | None) -> dict[str, Any]:
    """The request's JSON object (or the one that was signed), checked.

    Raises BadInput or werkzeug's 400 and 415.
    """
    try:
        body = request.get_json() if signed is None else json.loads(signed)
    except BadRequest:
        raise BadRequest("the body is not valid JSON") from None
    except RecursionError:
        raise BadInput("the JSON is nested too deeply") from None
    except ValueError:
        raise BadInput("the body must be JSON") from None
    if not isinstance(body, dict):
        raise BadInput("the body must be a JSON object")
    unknown = set(body) - _FIELDS
    if unknown:
        raise BadInput(f"unknown field {sorted(unknown)[0]!r}; there are name, data and id")
    if not isinstance(body.get("name"), str) or not body["name"]:
        raise BadInput("name: the event's name is missing")
    if not isinstance(body.get("data", {}), dict | None):
        raise BadInput("data: must be an object")
    if not isinstance(body.get("id", ""), str | None) or body.get("id") == "":
        raise BadInput("id: must be a non-empty string")
    return body

"""POST /api/inngest/trigger: start a job by its event's name."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from app.dispatch import dispatch
from app.errors import BadInput
from app.runtime import Runtime
from app.web.auth import require_admin

_FIELDS = {"name", "data", "id"}


def blueprint(made: Runtime) -> Blueprint:
    """The trigger endpoint."""
    pages = Blueprint("trigger", __name__)

    @pages.post("/api/inngest/trigger")
    def trigger() -> tuple[dict[str, Any], int]:
        require_admin(request, made.settings)
        body = _body()
        spec = made.catalogue.by_event(body["name"])
        run = dispatch(spec.name, body.get("data") or {}, key=body.get("id"))
        return {
            "runId": run.id,
            "job": run.job,
            "backend": run.backend,
            "reason": run.reason,
            "status": run.status,
            "created": run.created,
        }, 202

    return pages


def _body() -> dict[str, Any]:
    """The request's JSON object, checked. Raises BadInput or werkzeug's 400 and 415."""
    body = request.get_json()
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

"""POST /api/webhooks/SOURCE: verified, kept once, and left to jobs."""

from __future__ import annotations

from flask import Blueprint, request
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.webhooks.body import content_type, posted
from app.platform.webhooks.inbox import relay
from app.platform.webhooks.signatures import verified
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime


def blueprint(made: Runtime) -> Blueprint:
    """The endpoint of the sources of WEBHOOK_SOURCES."""
    pages = Blueprint("webhooks", __name__)

    @pages.post("/api/webhooks/<source>")
    def take(source: str) -> Response | dict[str, bool]:
        secrets = settings_of(made).webhook_sources.get(source)
        if secrets is None:
            return problem(404, "Unknown source", "WEBHOOK_SOURCES does not name it")
        body = posted()
        event = verified(source, secrets, request.headers, body)
        with made.db.session() as session:
            new = relay(session, source, event, body, content_type())
        return {"received": True, "new": new}

    return pages

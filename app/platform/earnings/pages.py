"""/api/analytics: what the admins ask of the rolled up earnings."""

from __future__ import annotations

from hashlib import sha256

from flask import Blueprint, request
from werkzeug.wrappers import Response

from app.platform.earnings import popular
from app.platform.earnings.top import TopCreators
from app.switchyard.cache import presence
from app.switchyard.db import canonical_json
from app.switchyard.runtime import Runtime
from app.switchyard.web.auth import require_admin


def blueprint(made: Runtime) -> Blueprint:
    """The analytics endpoints."""
    pages = Blueprint("analytics", __name__)

    @pages.get("/api/analytics/top-creators")
    def top_creators() -> Response:
        require_admin(request, made.settings)
        given = request.args
        query = TopCreators.of(
            given.get("window", "30d"), given.get("limit", "10"), given.get("currency", "usd")
        )
        now = made.store.clock()
        popular.count(made.cache, query.name, now)
        text = canonical_json(query.cached(made.cache, made.db, now))
        answer = Response(text, content_type="application/json")
        answer.set_etag(sha256(text.encode()).hexdigest()[:32])
        answer.headers["Cache-Control"] = "private, no-cache"
        return answer.make_conditional(request)

    @pages.get("/api/analytics/present")
    def present() -> dict[str, list[str]]:
        """Who called the creators' API within the last minute, the latest first."""
        require_admin(request, made.settings)
        return {"present": presence.present(made.cache)}

    return pages

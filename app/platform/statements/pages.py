"""Serves GET /statements/TOKEN, the PDF behind a link."""

from __future__ import annotations

from flask import Blueprint, Response, request
from itsdangerous import BadData
from sqlalchemy import select

from app.platform.config import settings_of
from app.platform.statements.links import PATH, opened
from app.platform.statements.models import Statement as S
from app.switchyard.errors import Unauthorized
from app.switchyard.http import from_here
from app.switchyard.runtime import Runtime

_NOTHING = "the link opens nothing, or no longer"


def blueprint(parts: Runtime) -> Blueprint:
    """The blueprint with the page behind the link."""
    pages = Blueprint("statements", __name__)
    settings = settings_of(parts)

    @pages.get(f"{PATH}<token>")
    def download(token: str) -> Response:
        if settings.secret_key is None and not from_here(request, settings):
            raise Unauthorized("without SECRET_KEY only callers on this machine are served")
        try:
            statement_id = opened(settings, token)
        except BadData:
            raise Unauthorized(_NOTHING) from None
        path = parts.db.value(select(S.pdf_path).where(S.id == statement_id))
        if path is None:
            raise Unauthorized(_NOTHING)
        answer = Response(parts.engine.gateways.storage.get(path), content_type="application/pdf")
        name = f"statement-{statement_id.replace(':', '-')}.pdf"
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        answer.headers["Cache-Control"] = "private, no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return pages

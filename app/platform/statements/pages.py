"""GET /statements/…: a statement's PDF, for whoever has the link that was mailed."""

from __future__ import annotations

from flask import Blueprint, Response, request
from sqlalchemy import select

from app.platform.gateways.storage import StorageUnavailable
from app.platform.statements import links
from app.platform.statements.models import Statement as S
from app.switchyard.errors import Unauthorized
from app.switchyard.http import require_signed
from app.switchyard.runtime import Runtime


def blueprint(made: Runtime) -> Blueprint:
    """The page behind the link."""
    pages = Blueprint("statements", __name__)

    @pages.get(f"{links.PATH}<token>")
    def download(token: str) -> Response:
        require_signed(request, made.settings)
        statement_id = links.opened(made.settings, token)
        with made.db.autocommit() as connection:
            path = connection.scalar(select(S.pdf_path).where(S.id == statement_id))
        if path is None:
            raise Unauthorized("the link opens nothing, or no longer")
        storage = made.engine.gateways.storage
        if storage is None:
            raise StorageUnavailable("there is no storage")
        name = f"statement-{statement_id.replace(':', '-')}.pdf"
        answer = Response(storage.get(path), content_type="application/pdf")
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        answer.headers["Cache-Control"] = "private, no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return pages

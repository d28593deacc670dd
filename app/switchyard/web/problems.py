"""Errors as application/problem+json (RFC 9457): what was wrong, never how the code looks."""

from __future__ import annotations

import json
import logging
from math import ceil

from flask import Blueprint, Flask, Response
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException

from app.switchyard.errors import SwitchyardError

log = logging.getLogger(__name__)


def problem(status: int, title: str, detail: str) -> Response:
    """One problem document."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(json.dumps(body), status, content_type="application/problem+json")


def refusal(failure: SwitchyardError) -> Response:
    """What the product raised on purpose, as a problem document."""
    if failure.status >= 500:
        log.error("request failed: %s", failure)
    answer = problem(failure.status, failure.title, str(failure))
    if failure.retry_after is not None:
        answer.headers["Retry-After"] = str(ceil(failure.retry_after))
    return answer


def register(app: Flask | Blueprint) -> None:
    """Answer every error of the app, or of one blueprint, as a problem document."""
    app.register_error_handler(SwitchyardError, refusal)

    @app.errorhandler(HTTPException)
    def http(failure: HTTPException) -> Response:
        return problem(failure.code or 500, failure.name, failure.description or failure.name)

    @app.errorhandler(DBAPIError)
    def no_database(failure: DBAPIError) -> Response:
        log.error("database failed: %s", type(failure).__name__)
        return problem(503, "Database unavailable", "nothing was recorded; try again")

    @app.errorhandler(Exception)
    def unexpected(failure: Exception) -> Response:
        log.exception("request failed")
        detail = "the server could not answer; its log says why"
        return problem(500, "Internal error", detail)

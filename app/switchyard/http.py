"""What every entrance over HTTP shares: who may call, and errors as application/problem+json
(RFC 9457) that say what was wrong, never how the code looks."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
from math import ceil

from flask import Blueprint, Flask, Request, Response
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.exceptions import HTTPException

from app.switchyard.config import LOOPBACK, Settings
from app.switchyard.errors import SwitchyardError, Unauthorized
from app.switchyard.text import reason

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5
"""When to come again after the database could not be used."""
_PROXIED = re.compile(r"(?i)X-Forwarded-.+|Forwarded|Via|X-Real-Ip")


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


def register_problems(app: Flask | Blueprint) -> None:
    """Answer every error of the app, or of one blueprint, as a problem document."""
    app.register_error_handler(SwitchyardError, refusal)

    @app.errorhandler(HTTPException)
    def http(failure: HTTPException) -> Response:
        return problem(failure.code or 500, failure.name, failure.description or failure.name)

    @app.errorhandler(DBAPIError)
    @app.errorhandler(NoConnection)
    def no_database(failure: SQLAlchemyError) -> Response:
        log.error("database failed: %s", reason(failure))
        answer = problem(503, "Database unavailable", "nothing was recorded; try again")
        answer.headers["Retry-After"] = str(AGAIN_SECONDS)
        return answer

    @app.errorhandler(Exception)
    def unexpected(failure: Exception) -> Response:
        log.exception("request failed")
        detail = "the server could not answer; its log says why"
        return problem(500, "Internal error", detail)


def require_admin(request: Request, settings: Settings) -> None:
    """Raises Unauthorized unless the request carries ADMIN_TOKEN, or comes from this machine in
    local mode (with a loopback Host, so that no page of another site can be behind it)."""
    given = _bearer(request)
    if given is not None and settings.admin_token is not None:
        wanted = settings.admin_token.get_secret_value()
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return
        raise Unauthorized("the bearer token is not ADMIN_TOKEN")
    if settings.local and settings.admin_token is None and from_here(request, settings):
        return
    raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN")


def require_here(request: Request, settings: Settings, served: bool) -> None:
    """Raises Unauthorized unless it is `served` at all, and the caller is on this machine."""
    if not (served and from_here(request, settings)):
        raise Unauthorized("served in local mode only, to callers on this machine")


def _bearer(request: Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def client_address(request: Request, settings: Settings) -> str:
    """Who sent the request: as the first of TRUSTED_PROXIES saw it, else whoever is connected."""
    seen = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",")]
    if 0 < settings.trusted_proxies <= len(seen):
        return seen[-settings.trusted_proxies]
    return request.remote_addr or "nowhere"


def from_here(request: Request, settings: Settings) -> bool:
    """Whether the request comes from this machine, through no proxy, and from no page of another
    site."""
    if settings.trusted_proxies or any(map(_PROXIED.fullmatch, request.headers.keys())):
        return False
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return near and request.host.rsplit(":", 1)[0].strip("[]") in LOOPBACK

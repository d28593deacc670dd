"""Who may call: an admin by bearer token, or anyone on this machine in local mode."""

from __future__ import annotations

import hmac
import ipaddress

from flask import Request

from app.switchyard.config import LOOPBACK, Settings
from app.switchyard.errors import Unauthorized


def require_admin(request: Request, settings: Settings) -> None:
    """Raises Unauthorized unless the request carries ADMIN_TOKEN, or comes from this machine in
    local mode (with a loopback Host, so that no page of another site can be behind it)."""
    given = _bearer(request)
    if given is not None and settings.admin_token is not None:
        wanted = settings.admin_token.get_secret_value()
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return
        raise Unauthorized("the bearer token is not ADMIN_TOKEN")
    if settings.local and settings.admin_token is None and from_here(request):
        return
    raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN")


def require_signed(request: Request, settings: Settings) -> None:
    """Raises Unauthorized where local mode's key signs, which is no secret, and the caller is not
    on this machine."""
    if settings.secret_key is None and not from_here(request):
        raise Unauthorized("without SECRET_KEY only callers on this machine are served")


def require_here(request: Request, settings: Settings) -> None:
    """Raises Unauthorized unless this is local mode and the caller is on this machine."""
    if not (settings.local and from_here(request)):
        raise Unauthorized("served in local mode only, to callers on this machine")


def _bearer(request: Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def from_here(request: Request) -> bool:
    """Whether the request comes from this machine, and from no page of another site."""
    if request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded"):
        return False
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return near and request.host.rsplit(":", 1)[0].strip("[]") in LOOPBACK

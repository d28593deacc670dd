"""Who may call: the admin's bearer token, or anyone on this machine in local mode."""

from __future__ import annotations

import hmac
import ipaddress

from flask import Request

from app.config import LOOPBACK, Settings
from app.errors import Unauthorized


def require_admin(request: Request, settings: Settings) -> None:
    """Raises Unauthorized unless the request carries ADMIN_TOKEN, or comes from this machine in
    local mode (with a loopback Host, so that no page of another site can be behind it)."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and settings.admin_token is not None:
        wanted = settings.admin_token.get_secret_value()
        if hmac.compare_digest(given.strip().encode(), wanted.encode()):
            return
        raise Unauthorized("the bearer token is not ADMIN_TOKEN")
    if settings.local and settings.admin_token is None and _from_here(request):
        return
    raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN")


def _from_here(request: Request) -> bool:
    if request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded"):
        return False
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return near and request.host.rsplit(":", 1)[0].strip("[]") in LOOPBACK

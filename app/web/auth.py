"""Who may call: an admin or a creator by bearer token, or anyone on this machine in local mode."""

from __future__ import annotations

import hmac
import ipaddress
from datetime import timedelta

from flask import Request
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from app.config import LOOPBACK, Settings
from app.errors import SettingsError, Unauthorized

CREATOR_TOKEN_SECONDS = int(timedelta(days=30).total_seconds())
"""How long a creator's token is good for."""
_SALT = "creator"
_LOCAL_KEY = "switchyard-local"
"""Known to anyone who reads this: it serves in local mode only, and callers on loopback only."""


class SecretKeyMissing(SettingsError):
    """Creators' tokens can be neither made nor checked without SECRET_KEY."""

    status = 503
    title = "Creators are not served"


def require_admin(request: Request, settings: Settings) -> None:
    """Raises Unauthorized unless the request carries ADMIN_TOKEN, or comes from this machine in
    local mode (with a loopback Host, so that no page of another site can be behind it)."""
    given = _bearer(request)
    if given is not None and settings.admin_token is not None:
        wanted = settings.admin_token.get_secret_value()
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return
        raise Unauthorized("the bearer token is not ADMIN_TOKEN")
    if settings.local and settings.admin_token is None and _from_here(request):
        return
    raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN")


def require_creator(request: Request, settings: Settings) -> str:
    """The id of the creator whose token the request carries.

    Raises Unauthorized, and SecretKeyMissing outside local mode without SECRET_KEY.
    """
    tokens = _tokens(settings)
    if settings.secret_key is None and not _from_here(request):
        raise Unauthorized("without SECRET_KEY only callers on this machine are served")
    given = _bearer(request)
    if given is None:
        raise Unauthorized("send Authorization: Bearer and a creator's token")
    try:
        creator_id = tokens.loads(given, max_age=CREATOR_TOKEN_SECONDS)
    except SignatureExpired:
        raise Unauthorized("the creator's token has expired") from None
    except BadData:
        raise Unauthorized("the bearer token is not a creator's") from None
    return str(creator_id)


def creator_token(settings: Settings, creator_id: str) -> str:
    """A token for one creator, good for CREATOR_TOKEN_SECONDS from now. Raises SecretKeyMissing."""
    return str(_tokens(settings).dumps(creator_id))


def _tokens(settings: Settings) -> URLSafeTimedSerializer:
    if settings.secret_key is not None:
        return URLSafeTimedSerializer(settings.secret_key.get_secret_value(), salt=_SALT)
    if settings.local:
        return URLSafeTimedSerializer(_LOCAL_KEY, salt=_SALT)
    raise SecretKeyMissing("SECRET_KEY is not set: creators' tokens are signed with it")


def _bearer(request: Request) -> str | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def _from_here(request: Request) -> bool:
    if request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded"):
        return False
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
    return near and request.host.rsplit(":", 1)[0].strip("[]") in LOOPBACK

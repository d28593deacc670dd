"""Tokens signed with SECRET_KEY: each purpose has its salt, and takes no other's tokens."""

from __future__ import annotations

from itsdangerous import URLSafeTimedSerializer

from app.switchyard.config import Settings
from app.switchyard.errors import SettingsError

_LOCAL_KEY = "switchyard-local"
"""Known to anyone who reads this: it serves in local mode only, and callers on loopback only."""


class SecretKeyMissing(SettingsError):
    """Nothing can be signed, nor a signature checked, without SECRET_KEY."""

    status = 503
    title = "SECRET_KEY is not set"


def signer(settings: Settings, purpose: str) -> URLSafeTimedSerializer:
    """Makes and checks tokens for one purpose. Raises SecretKeyMissing outside local mode."""
    if settings.secret_key is not None:
        return URLSafeTimedSerializer(settings.secret_key.get_secret_value(), salt=purpose)
    if settings.local:
        return URLSafeTimedSerializer(_LOCAL_KEY, salt=purpose)
    raise SecretKeyMissing("SECRET_KEY is not set: links and sessions are signed with it")

"""The Inngest client: always the real one; in development only its base URL differs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from app.switchyard import extras
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable

if TYPE_CHECKING:
    from inngest import Inngest

APP_ID = "switchyard"
REQUEST_TIMEOUT = timedelta(seconds=3)
TRY_SECONDS = 1.0
"""How long the SDK may go on trying to send; it would five times, each as long as a request may
take, and whoever called dispatch() would wait for all of them."""
DEV_SERVER = "http://127.0.0.1:8288"
API = "https://api.inngest.com"


def base_url(settings: Settings) -> str | None:
    """Where INNGEST_DEV or INNGEST_BASE_URL point, or None for Inngest's own cloud."""
    dev = (settings.inngest_dev or "").lower()
    if dev.startswith(("http://", "https://")):
        return settings.inngest_dev
    if settings.inngest_base_url is not None:
        return settings.inngest_base_url
    return None if settings.inngest_signed else DEV_SERVER


def make_client(settings: Settings) -> Inngest:
    """A client for what the settings name. It keeps sockets: one per process, made after a fork.

    Raises BackendUnavailable where its package is not installed.
    """
    require_package()
    from inngest import Inngest

    event_key, signing_key = settings.inngest_event_key, settings.inngest_signing_key
    fallback = settings.inngest_signing_key_fallback
    origin = base_url(settings)
    client = Inngest(
        app_id=APP_ID,
        api_base_url=origin,
        event_api_base_url=origin,
        event_key=None if event_key is None else event_key.get_secret_value(),
        signing_key=None if signing_key is None else signing_key.get_secret_value(),
        is_production=settings.inngest_signed,
        request_timeout=REQUEST_TIMEOUT,
    )
    # It would read the environment itself, and unchecked.
    client._signing_key_fallback = None if fallback is None else fallback.get_secret_value()
    return client


def require_package() -> None:
    """Raises BackendUnavailable where the package is not installed: it is an extra."""
    if (lacking := extras.missing("inngest")) is not None:
        raise BackendUnavailable(f"inngest: {lacking}")


def make_sender(settings: Settings) -> Inngest:
    """The same for sending events, which tries again only while that is quick."""
    client = make_client(settings)
    client._http_client._http_client_sync.event_hooks = {"request": [_not_for_long]}
    return client


def _not_for_long(request: Any) -> None:
    begun = request.extensions.setdefault("switchyard.begun", time.monotonic())
    if time.monotonic() - begun > TRY_SECONDS:
        raise BackendUnavailable("inngest: it does not answer")

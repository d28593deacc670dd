"""The Inngest client: always the real one; in development only its base URL differs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.switchyard import extras
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable
from app.switchyard.text import answered, reason

if TYPE_CHECKING:
    from inngest import Event, Inngest

APP_ID = "switchyard"
CANCELLED = "inngest-run-cancelled"
"""The function that is of no job: it hears of runs that were cancelled at Inngest."""
REQUEST_TIMEOUT = timedelta(seconds=3)
TRY_SECONDS = 1.0
"""How long the SDK may go on trying to send; it would five times, each as long as a request may
take, and whoever called dispatch() would wait for all of them."""
DEV_SERVER = "http://127.0.0.1:8288"
API = "https://api.inngest.com"
EVENT_KEY, SIGNING_KEY = "INNGEST_EVENT_KEY", "INNGEST_SIGNING_KEY"


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

    def check(response: Any) -> None:
        # The SDK would say no more than that it failed.
        if 300 <= response.status_code < 500 and response.status_code != 400:
            raise refusal(settings, response.status_code, EVENT_KEY)

    def not_for_long(request: Any) -> None:
        begun = request.extensions.setdefault("switchyard.begun", time.monotonic())
        if time.monotonic() - begun > TRY_SECONDS:
            raise unreachable(settings, "it does not answer")

    hooks: dict[str, list[Any]] = {"request": [not_for_long], "response": [check]}
    client._http_client._http_client_sync.event_hooks = hooks
    return client


def send(settings: Settings, sender: Inngest, events: list[Event]) -> list[str]:
    """Send events; Inngest's ids of them. Raises BackendUnavailable, which says what to do."""
    try:
        return sender.send_sync(events)
    except BackendUnavailable:
        raise
    except ValueError as unread:
        raise refusal(settings, None, EVENT_KEY) from unread
    except Exception as failure:
        # The SDK raises its own errors and httpx's; none says that it was not accepted.
        if "never received response" in str(failure):
            raise unreachable(settings, "it does not answer") from failure
        raise BackendUnavailable(f"inngest: {reason(failure)}") from failure


def refusal(settings: Settings, status: int | None, key: str) -> BackendUnavailable:
    """What an answer means that is no success: of the key `key`, or of no Inngest at all."""
    if status in (401, 403):
        what = f"inngest: it answered {status}: it refuses {key}"
        return BackendUnavailable(what, f"set {key} to what this environment has at Inngest")
    if status not in (None, 404, 405) and not 300 <= status < 400:
        return BackendUnavailable(f"inngest: {answered(status)}")
    origin, variable = _where(settings)
    answer = "what cannot be read" if status is None else f"{status}"
    what = f"inngest: what answers at {origin} is not Inngest: it answered {answer}"
    return BackendUnavailable(what, f"see that {variable} names Inngest")


def unreachable(settings: Settings, why: str) -> BackendUnavailable:
    """What it means that there is no answer."""
    origin, variable = _where(settings)
    what = f"inngest: {origin} cannot be reached: {why}"
    return BackendUnavailable(what, f"see that {variable} is right and Inngest up")


def _where(settings: Settings) -> tuple[str, str]:
    """Where Inngest is looked for, and the variable that says so."""
    origin = base_url(settings) or API
    parts = urlsplit(origin)
    port = f":{parts.port}" if parts.port else ""
    own = origin in (settings.inngest_dev, DEV_SERVER)
    named = "INNGEST_DEV" if own else "INNGEST_BASE_URL"
    return f"{parts.scheme}://{parts.hostname}{port}", named

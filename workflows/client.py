"""Inngest's client and REST API, the real ones also in development: only their base URL differs."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.switchyard.config import Settings
from app.switchyard.cron import portable
from app.switchyard.cutover.status import SYNC_REFUSED
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import RESERVED
from app.switchyard.logs import logger_of
from app.switchyard.runtime import Runtime
from app.switchyard.text import LONGEST_REASON, answered, reason, without_secrets
from workflows.service import require_package

if TYPE_CHECKING:
    import requests
    from inngest import Event, Inngest

log = logger_of(__name__)

APP_ID = "switchyard"
CANCELLED = RESERVED
"""The one function that belongs to no job: it is called for runs that were cancelled at Inngest."""
TRY_SECONDS = 1.0
"""How long the SDK may keep trying to send. It would try five times, for as long as a request may
take each time, while the caller of dispatch() waits."""
DEV_SERVER = "http://127.0.0.1:8288"
API = "https://api.inngest.com"
ANSWER_SECONDS = 3.0
HARMLESS = "switchyard/verify"
"""The name of an event that starts none of our functions."""
_KEPT_SECONDS = 7 * 86400.0
EVENT_KEY, SIGNING_KEY = "INNGEST_EVENT_KEY", "INNGEST_SIGNING_KEY"


def base_url(settings: Settings) -> str | None:
    """The URL in INNGEST_DEV or INNGEST_BASE_URL, or None for Inngest's own cloud."""
    dev = (settings.inngest_dev or "").lower()
    if dev.startswith(("http://", "https://")):
        return settings.inngest_dev
    if settings.inngest_base_url is not None:
        return settings.inngest_base_url
    return None if settings.inngest_signed else DEV_SERVER


def make_client(settings: Settings) -> Inngest:
    """A client for the settings, for one process: it keeps sockets.

    Raises BackendUnavailable where its package is not installed.
    """
    require_package("inngest")
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
        request_timeout=timedelta(seconds=ANSWER_SECONDS),
    )
    # Otherwise it would read the environment itself, unchecked.
    client._signing_key_fallback = None if fallback is None else fallback.get_secret_value()
    client._http_client._signing_key_fallback = client._signing_key_fallback
    return client


def signing_keys(settings: Settings) -> list[str]:
    """Both signing keys, as far as they are set, each without its prefix: hexadecimal digits."""
    keys = (settings.inngest_signing_key, settings.inngest_signing_key_fallback)
    return [key.get_secret_value().rpartition("-")[2] for key in keys if key is not None]


def make_sender(settings: Settings) -> Inngest:
    """A client for sending events, which retries only while that is quick."""
    client = make_client(settings)

    def check(response: Any) -> None:
        # The SDK would only report that it failed.
        status = response.status_code
        if 300 <= status < 500 and status != 400:
            raise refusal(settings, status, EVENT_KEY)
        if status >= 400:
            why, taken = _read_refusal(response)
            if why and status == 400:
                raise EventRefused(why, taken)
            said = f"inngest: {answered(status)}" + (f": {why}" if why else "")
            response.request.extensions["switchyard.failure"] = BackendUnavailable(said)

    def not_for_long(request: Any) -> None:
        begun = request.extensions.setdefault("switchyard.begun", time.monotonic())
        if time.monotonic() - begun > TRY_SECONDS:
            failure = request.extensions.get("switchyard.failure")
            raise failure or unreachable(settings, "it does not answer")

    hooks: dict[str, list[Any]] = {"request": [not_for_long], "response": [check]}
    client._http_client._http_client_sync.event_hooks = hooks
    return client


class EventRefused(BackendUnavailable):
    """Inngest does not take one event of those that it was sent. It has taken the ones before it,
    and has not looked at those behind it."""

    def __init__(self, why: str, taken: list[str]) -> None:
        super().__init__(f"inngest: it refuses an event: {why}")
        self.taken = taken
        """Its ids of those before."""


def _read_refusal(response: Any) -> tuple[str, list[str]]:
    """Why Inngest refuses what it was sent, if it says so, and its ids of what it has taken."""
    response.read()
    with suppress(ValueError, TypeError, AttributeError):
        said = response.json()
        why = " ".join(str(said.get("error") or "").split())
        # Where it has taken none it names one that is empty.
        taken = [str(id) for id in said.get("ids") or () if id]
        return without_secrets(why)[:LONGEST_REASON], taken
    return "", []


def send(settings: Settings, sender: Inngest, events: list[Event]) -> list[str]:
    """Send events and return Inngest's ids. Raises EventRefused, or another BackendUnavailable,
    which says what to do."""
    try:
        ids = sender.send_sync(events)
        if len(ids) != len(events):
            raise ValueError("an answer that names other events")
        return ids
    except BackendUnavailable:
        raise
    except ValueError as unread:
        raise refusal(settings, None, EVENT_KEY) from unread
    except Exception as failure:
        # The SDK raises its own errors and httpx's. None of them proves that nothing was accepted.
        if "never received response" in str(failure):
            raise unreachable(settings, "it does not answer") from failure
        raise BackendUnavailable(f"inngest: {reason(failure)}") from failure


def refusal(settings: Settings, status: int | None, key: str) -> BackendUnavailable:
    """What a failed answer means: the key named `key` is wrong, or it is not Inngest's answer."""
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
    """What a missing answer means."""
    origin, variable = _where(settings)
    what = f"inngest: {origin} cannot be reached: {why}"
    return BackendUnavailable(what, f"check that {variable} is right and Inngest is up")


def _where(settings: Settings) -> tuple[str, str]:
    """The URL of Inngest, and the variable that sets it."""
    origin = base_url(settings) or API
    parts = urlsplit(origin)
    port = f":{parts.port}" if parts.port else ""
    own = origin in (settings.inngest_dev, DEV_SERVER)
    named = "INNGEST_DEV" if own else "INNGEST_BASE_URL"
    return f"{parts.scheme}://{parts.hostname}{port}", named


def ask(settings: Settings, method: str, path: str) -> requests.Response:
    """The answer of Inngest's REST API. Raises BackendUnavailable where there is none, or where it
    refuses both signing keys."""
    import requests  # not to be loaded where there is no Inngest

    url = (base_url(settings) or API).rstrip("/") + path
    bearers = [hashlib.sha256(bytes.fromhex(key)).hexdigest() for key in signing_keys(settings)]
    for headers in [{"Authorization": f"Bearer {bearer}"} for bearer in bearers] or [{}]:
        try:
            answer = requests.request(method, url, headers=headers, timeout=ANSWER_SECONDS)
        except requests.RequestException as failure:
            raise unreachable(settings, reason(failure)) from failure
        if answer.status_code not in (401, 403):
            return answer
    raise refusal(settings, answer.status_code, SIGNING_KEY)


def send_harmless(settings: Settings) -> None:
    """Check that Inngest accepts an event. Raises BackendUnavailable."""
    sender = make_sender(settings)
    from inngest import Event

    send(settings, sender, [Event(name=HARMLESS)])


def note_sync(runtime: Runtime, said: dict[str, Any]) -> None:
    """Note why a sync was refused, in the log and for `sync_refusal`. It fails for all functions.

    `said` is this app's answer to the request to sync.
    """
    error = said.get("error") or (said.get("message") if "code" in said else None)
    if not isinstance(error, str):
        if said.get("ok") or "functions" in said:  # else it was no sync: anybody may try
            runtime.cache.delete(SYNC_REFUSED)
        return
    named = [
        spec.name
        for spec in runtime.catalogue.values()
        if {f"{APP_ID}-{spec.name}", f"'{spec.name}'"} & set(re.split(r'[\s:,;"]+', error))
        or (spec.schedule is not None and portable(spec.schedule) in error)
    ]
    why = " ".join(error.split())[:LONGEST_REASON]
    if said.get("status") in (401, 403):
        why = str(refusal(runtime.settings, said["status"], SIGNING_KEY))
    log.error("Inngest refused to sync", extra={"reason": why, "jobs": named})
    of = f" (job {', '.join(named)})" if named else ""
    runtime.cache.put(SYNC_REFUSED, f"{why}{of}", _KEPT_SECONDS)


def functions_there(settings: Settings) -> set[str]:
    """The names of those functions of this app that Inngest has.

    Asks its REST API, which real servers have had since 2024, or else a dev server's summary.
    Raises BackendUnavailable, also where the server cannot tell.
    """
    answer = ask(settings, "GET", f"/v1/apps/{APP_ID}/functions")
    listed = _json_of(answer)
    rows = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(rows, list):
        summary = _json_of(ask(settings, "GET", "/dev"))
        rows = summary.get("functions") if isinstance(summary, dict) else None
    if not isinstance(rows, list):
        raise refusal(settings, None if answer.ok else answer.status_code, SIGNING_KEY)
    named = [row.get("slug") or row.get("id") if isinstance(row, dict) else row for row in rows]
    slugs = [str(name) for name in named]
    return {slug.removeprefix(f"{APP_ID}-") for slug in slugs if slug.startswith(f"{APP_ID}-")}


def _json_of(answer: requests.Response) -> Any:
    with suppress(ValueError):
        return answer.json() if answer.ok else None
    return None

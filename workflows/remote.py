"""What Inngest's server reports about this app."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from app.switchyard.config import Settings
from app.switchyard.cron import portable
from app.switchyard.cutover.status import SYNC_REFUSED
from app.switchyard.logs import logger_of
from app.switchyard.runtime import Runtime
from app.switchyard.text import LONGEST_REASON
from workflows.backend import ask
from workflows.client import APP_ID, SIGNING_KEY, make_sender, refusal, send

if TYPE_CHECKING:
    import requests

log = logger_of(__name__)

_KEPT_SECONDS = 7 * 86400.0
HARMLESS = "switchyard/verify"
"""The name of an event that starts none of our functions."""


def send_harmless(settings: Settings) -> None:
    """Check that Inngest accepts an event. Raises BackendUnavailable."""
    sender = make_sender(settings)
    from inngest import Event

    send(settings, sender, [Event(name=HARMLESS)])


def note_sync(runtime: Runtime, answer: object) -> None:
    """Note why a sync was refused, in the log and for `sync_refusal`. It fails for all functions.

    `answer` is this app's answer to the request to sync.
    """
    said = answer if isinstance(answer, dict) else {}
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
    rows: Any = answer.json() if answer.ok and _is_json(answer) else None
    if isinstance(rows, dict):
        rows = rows.get("data")
    if answer.status_code in (401, 403):
        raise refusal(settings, answer.status_code, SIGNING_KEY)
    if not isinstance(rows, list):
        summary = ask(settings, "GET", "/dev")
        rows = summary.json().get("functions") if summary.ok and _is_json(summary) else None
    if not isinstance(rows, list):
        raise refusal(settings, None if answer.ok else answer.status_code, SIGNING_KEY)
    slugs = {_slug(row) for row in rows}
    return {slug.removeprefix(f"{APP_ID}-") for slug in slugs if slug.startswith(f"{APP_ID}-")}


def _slug(row: Any) -> str:
    if isinstance(row, dict):
        row = row.get("slug") or row.get("id")
    return str(row)


def _is_json(answer: requests.Response) -> bool:
    try:
        return isinstance(answer.json(), dict | list)
    except ValueError:
        return False

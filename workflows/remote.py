"""What Inngest's server itself says of this app: for `cutover verify`."""

from __future__ import annotations

from typing import Any

import requests

from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable
from app.switchyard.text import reason
from workflows.backend import ANSWER_SECONDS, headers
from workflows.client import API, APP_ID, base_url, make_client

HARMLESS = "switchyard/verify"
"""An event that starts no function of ours."""


def send_harmless(settings: Settings) -> None:
    """Have Inngest take one event. Raises BackendUnavailable."""
    client = make_client(settings)
    from inngest import Event

    try:
        client.send_sync(Event(name=HARMLESS))
    except Exception as failure:
        raise BackendUnavailable(f"inngest: {reason(failure)}") from failure


def functions_there(settings: Settings) -> set[str]:
    """The names of this app's functions that Inngest has.

    Asks its REST API, which real servers have had since 2024, and else a dev server's summary.
    Raises BackendUnavailable, also where the server does not say.
    """
    answer = _get(settings, f"/v1/apps/{APP_ID}/functions")
    rows: Any = answer.json() if answer.ok and _is_json(answer) else None
    if isinstance(rows, dict):
        rows = rows.get("data")
    if not isinstance(rows, list) and answer.status_code not in (401, 403):
        summary = _get(settings, "/dev")
        rows = summary.json().get("functions") if summary.ok and _is_json(summary) else None
    if not isinstance(rows, list):
        raise BackendUnavailable(f"inngest: it does not say (it answered {answer.status_code})")
    slugs = {_slug(row) for row in rows}
    return {slug.removeprefix(f"{APP_ID}-") for slug in slugs if slug.startswith(f"{APP_ID}-")}


def _slug(row: Any) -> str:
    if isinstance(row, dict):
        row = row.get("slug") or row.get("id")
    return str(row)


def _get(settings: Settings, path: str) -> requests.Response:
    origin = (base_url(settings) or API).rstrip("/")
    try:
        return requests.get(origin + path, headers=headers(settings), timeout=ANSWER_SECONDS)
    except requests.RequestException as failure:
        raise BackendUnavailable(f"inngest: {reason(failure)}") from failure


def _is_json(answer: requests.Response) -> bool:
    try:
        return isinstance(answer.json(), dict | list)
    except ValueError:
        return False

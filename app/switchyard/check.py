"""Calls of this app at BACKEND_URL, as others reach it, for checks of `cutover verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.switchyard.errors import BackendUnavailable, CheckFailed
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason

if TYPE_CHECKING:  # for checks alone
    import requests

ANSWER_SECONDS = 4.0


def is_refused(runtime: Runtime, path: str) -> bool:
    """Whether this app refuses an unsigned call.

    Raises CheckFailed and BackendUnavailable where the app cannot be called from here.
    """
    return called(runtime, "POST", path).status_code in (400, 401, 403)


def called(runtime: Runtime, method: str, path: str) -> requests.Response:
    """The app's answer. Raises as is_refused does."""
    import requests

    base = runtime.settings.backend_url
    if base is None:
        raise CheckFailed("BACKEND_URL is not set")
    body: dict[str, str] | None = None if method == "GET" else {}
    how: dict[str, Any] = {"timeout": ANSWER_SECONDS, "allow_redirects": False}
    try:
        return requests.request(method, base.rstrip("/") + path, json=body, **how)
    except requests.RequestException as failure:
        raise BackendUnavailable(f"BACKEND_URL: {reason(failure)}") from failure

"""No web page may call a local server: a developer's browser reaches loopback from any site."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.wrappers import Request, Response

from app.local.loopback import is_loopback

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class Guard:
    """Passes on what a program sends, and refuses what a page can make a browser send.

    A browser names the page's site in `Origin` or `Sec-Fetch-Site`, a rebound DNS name stands in
    `Host`, and only simple content types go out without a question asked first.
    """

    def __init__(self, app: WSGIApplication, form_path: str | None = None) -> None:
        self._app = app
        self._form_path = form_path

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        if (refusal := self._refusal(request)) is None:
            return self._app(environ, start)
        status, reason = refusal
        body = json.dumps({"error": reason, "status": status})
        return Response(body, status, content_type=JSON)(environ, start)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and reason, or None where nothing speaks against the request."""
        headers = request.headers
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none":
            return 403, "no web page may call a local server"
        if not is_loopback(_hostname(headers.get("Host", ""))):
            return 403, "Host names another machine"
        wanted = JSON
        if self._form_path is not None and request.path.startswith(self._form_path):
            wanted = FORM
        has_body = bool(request.content_length) or "Transfer-Encoding" in headers
        if (has_body or "Content-Type" in headers) and request.mimetype != wanted:
            return 415, f"Content-Type must be {wanted}"
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None

"""No web page may call a local server: a developer's browser reaches loopback from any site."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.wrappers import Request, Response

from app.local.loopback import is_loopback

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def refusal(environ: WSGIEnvironment, form_path: str | None) -> Response | None:
    """The answer to what a page can make a browser send, or None for what a program sends.

    A browser names the page's site in `Origin` or `Sec-Fetch-Site`, a rebound DNS name stands in
    `Host`, and only simple content types go out without a question asked first. Below `form_path`
    bodies are forms, elsewhere JSON.
    """
    request = Request(environ)
    headers = request.headers
    wanted = FORM if form_path is not None and request.path.startswith(form_path) else JSON
    has_body = bool(request.content_length) or "Transfer-Encoding" in headers
    if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none":
        status, reason = 403, "no web page may call a local server"
    elif not _names_loopback(headers.get("Host", "")):
        status, reason = 403, "Host names another machine"
    elif (has_body or "Content-Type" in headers) and request.mimetype != wanted:
        status, reason = 415, f"Content-Type must be {wanted}"
    else:
        return None
    return Response(json.dumps({"error": reason, "status": status}), status, content_type=JSON)


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname)
    except ValueError:
        return False

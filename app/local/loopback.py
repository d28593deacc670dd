"""Loopback: no other machine reaches it, and no web page may call it, though browsers could."""

from __future__ import annotations

import ipaddress
import json
import random
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HOST = "127.0.0.1"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
_PORTS = range(15_000, 30_000)
"""Below the ports that the kernel gives to clients, which could take a restarting server's."""


def is_loopback(host: str | None) -> bool:
    """Whether a URL with this host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of loopback nobody listens on now."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if is_free(port):
            return port
    raise OSError("no free port on loopback")


def call(method: str, url: str, body: Any = None, timeout: float = 30.0) -> Any:
    """The JSON answer of a server on this machine. Raises requests.RequestException."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy is asked
        answer = session.request(method, url, json=body, timeout=timeout)
        answer.raise_for_status()
        return answer.json()


def refusal(environ: WSGIEnvironment, form_path: str | None) -> Response | None:
    """The answer to a request that a web page can cause, or None for one that a program sends.

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

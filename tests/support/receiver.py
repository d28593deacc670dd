"""A real HTTP server on loopback that keeps the webhooks it gets, and how they are to be signed."""

from __future__ import annotations

import base64
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from tests.support.serving import drop_connection, serve_in_thread
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TOKEN = "tok-3f9a"
"""In the address, where nobody else may see it."""


class Receiver:
    """Keeps what comes and answers as asked."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.drop = False
        self.release = threading.Event()
        self.release.set()
        self.url = ""

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Any:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        # Chosen before it is noted: whoever sees it noted may change what the next one gets.
        answer, drop = Response(status=self.status, headers=self.headers), self.drop
        self.got.append((request.full_path, headers, request.get_data()))
        if drop:
            drop_connection(environ)
        self.release.wait(PATIENCE_SECONDS)
        return answer(environ, start)

    @property
    def address(self) -> str:
        return f"{self.url}/hook/{TOKEN}?key={TOKEN}"


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of loopback."""
    made = Receiver()
    with serve_in_thread(made) as made.url:
        yield made
        made.release.set()


def signature(key: bytes, message: bytes) -> str:
    """A signature of Standard Webhooks, without its library."""
    return f"v1,{base64.b64encode(hmac.digest(key, message, 'sha256')).decode()}"

"""WSGI apps served on loopback, and answers that never come."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from app.local.serving import LoopbackServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment


@contextmanager
def serve_in_thread(app: WSGIApplication, port: int = 0) -> Iterator[str]:
    """Serve `app` for the length of a `with` block; yields the URL."""
    server = LoopbackServer(app, port)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def drop_connection(environ: WSGIEnvironment) -> None:
    """Close the client's socket without an answer; what the app then returns is dropped."""
    # The client may have gone first, which comes to the same.
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)

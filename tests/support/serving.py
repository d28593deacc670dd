"""Servers on loopback: WSGI apps in a thread, the local servers as processes; answers that never
come."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from app.local.serving import LoopbackServer
from app.platform.config import ROOT

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


@contextmanager
def local_server(*arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m app.local …` for the length of a `with` block: the process, and the URL that it
    prints. It may have been killed by then; else it must end well at SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-m", "app.local", *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            killed = process.poll() is not None
            process.terminate()
            assert process.wait() == 0 or killed

"""A WSGI app served on loopback from a thread: HTTP/1.1 with keep-alive, and no access log."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Response

from app.local.loopback import HOST

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

STOP_GRACE_SECONDS = 1.0
IDLE_SECONDS = 65


class _Handler(WSGIRequestHandler):
    """werkzeug's handler with keep-alive, which its own `run_wsgi` always refuses."""

    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; Nagle's algorithm would hold back the second.
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS

    def run_wsgi(self) -> None:
        """Answer one request. The body is read completely, so the next request starts clean."""
        self.environ = environ = self.make_environ()
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
        else:
            body = self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ |= {"wsgi.input": BytesIO(body), "wsgi.input_terminated": True}
        response = Response.from_app(self.server.app, environ, buffered=True)
        data = b"" if self.command == "HEAD" else response.get_data()
        with suppress(ConnectionError):
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in response.headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing, since a stand-in answers thousands of calls a minute."""


class LoopbackServer(ThreadedWSGIServer):
    """A served app. Port 0 picks a free one."""

    def __init__(self, app: WSGIApplication, port: int = 0) -> None:
        super().__init__(HOST, port, app, _Handler)
        self.url = f"http://{HOST}:{self.port}"
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, and answer it from a thread."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def start(self) -> str:
        """Serve from a thread; returns the URL."""
        self._thread.start()
        return self.url

    def stop(self) -> None:
        """Close the listener and every open connection, and wait a second for their threads."""
        self.shutdown()
        self._thread.join()
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        while self._open and time.monotonic() < deadline:
            for connection in list(self._open):
                with suppress(OSError):  # the other end may have closed first
                    connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.01)

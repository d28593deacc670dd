"""A WSGI app served on loopback from a thread: HTTP/1.1 with keep-alive, and no access log."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from app.local.loopback import HOST

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

STOP_GRACE_SECONDS = 1.0
IDLE_SECONDS = 65


class _Handler(WSGIRequestHandler):
    """werkzeug's handler with keep-alive, which its own `run_wsgi` always refuses."""

    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; Nagle's algorithm would hold back the second.
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS

    def setup(self) -> None:
        super().setup()
        _connections(self.server).add(self.connection)

    def finish(self) -> None:
        # A dropped client leaves nothing to flush to.
        with suppress(ConnectionError):
            super().finish()
        _connections(self.server).discard(self.connection)

    def run_wsgi(self) -> None:
        """Answer one request; the body is read whole, so the next request starts clean."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
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
        """Nothing: a stand-in answers thousands of calls a minute."""


def _connections(server: BaseWSGIServer) -> set[socket.socket]:
    return cast("set[socket.socket]", server.__dict__.setdefault("open_connections", set()))


def drop_connection(environ: WSGIEnvironment) -> None:
    """Close the client's socket without an answer; what the app then returns is thrown away."""
    # The client may have gone first, which comes to the same.
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


class LoopbackServer:
    """One served app; port 0 takes a free one."""

    def __init__(self, app: WSGIApplication, port: int = 0) -> None:
        self._server = make_server(HOST, port, app, threaded=True, request_handler=_Handler)
        self.port = self._server.port
        self.url = f"http://{HOST}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def start(self) -> str:
        """Serve from a thread; returns the URL."""
        self._thread.start()
        return self.url

    def stop(self) -> None:
        """Close the listener and every open connection, and wait a second for their threads."""
        self._server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        while _connections(self._server) and time.monotonic() < deadline:
            for connection in list(_connections(self._server)):
                drop_connection({"werkzeug.socket": connection})
            time.sleep(0.01)


@contextmanager
def serve_in_thread(app: WSGIApplication, port: int = 0) -> Iterator[str]:
    """Serve `app` for the length of a `with` block; yields the URL."""
    server = LoopbackServer(app, port)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()

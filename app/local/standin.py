"""What all stand-ins share: they serve a guarded WSGI app on loopback, and work in threads."""

from __future__ import annotations

import signal
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import click

from app.local.loopback import refusal
from app.local.serving import LoopbackServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from app.local.mail import MailSink

JOIN_SECONDS = 1.0
MEMORY = ":memory:"


class StandIn(ABC):
    """A server that can be started once. In a `with` block it is on a free port, and has `url`."""

    app: WSGIApplication
    """The app that it serves."""
    form_path: str | None = None
    """Requests to paths below it are forms. All others are JSON."""

    def __init__(self) -> None:
        self.url = ""
        self._stopped = threading.Event()
        self._server: LoopbackServer | None = None
        self._threads: list[threading.Thread] = []

    def work(self) -> Sequence[Callable[[], None]]:
        """Its other work, each piece in a thread, until `_stopped` is set."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Release its resources. Called once, when it no longer serves."""

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """The app, behind a guard that refuses web pages."""
        return (refusal(environ, self.form_path) or self.app)(environ, start)

    def start(self, port: int = 0) -> str:
        """Serve on `port` (0 for a free one), and work; returns the URL."""
        self._server = LoopbackServer(self, port)
        self.url = self._server.start()
        # Daemons, so that a call to a hung app cannot hold up the end of the process.
        self._threads = [threading.Thread(target=one, daemon=True) for one in self.work()]
        for thread in self._threads:
            thread.start()
        return self.url

    def stop(self) -> None:
        """Stop, if it was started."""
        if self._server is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._server.stop()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sqlite:
    """A connection behind a lock, for any thread. In a file, commits survive the process."""

    def __init__(self, path: str, tables: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {tables}")

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction. There is one writer at a time."""
        with self._lock:
            self._rows("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._rows("ROLLBACK")
                raise
            self._rows("COMMIT")


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Inside the block SIGTERM and SIGINT only set the event. For the main thread only."""
    stopped = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda *_: stopped.set()) for one in signals}
    try:
        yield stopped
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def serve_until_stopped(server: StandIn | MailSink, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    with stop_signal() as stopped:
        try:
            click.echo(server.start(port))
            stopped.wait()
        finally:
            server.stop()

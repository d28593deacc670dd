"""gunicorn's worker class of the Procfile: waitress takes each request in whole, without a thread,
and only then is it served. A client that sends slowly, or never ends, costs a socket."""

from __future__ import annotations

import logging
import os
import time
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any

from gunicorn.workers.base import Worker as GunicornWorker
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

SLICES = frozenset({"/api/inngest", "/api/qstash/deliver"})
"""Calls that do a slice of a run, which may take minutes; a quarter of the threads is for others.
"""
MOST_CONNECTIONS = 4000
SPARE_FILES = 200
"""Files and sockets of everything else: the database, Redis, Inngest."""
MOST_BYTES = 8 * 1024 * 1024
"""Of a body; the app's own limits are lower."""
MOST_HEADER_BYTES = 64 * 1024
SILENT_SECONDS = 60
"""How long a client may say nothing before its connection is closed."""
LINGER_SECONDS = 1.0
"""How long an ending process still takes what a client may just be sending."""


def _most_connections() -> int:
    """As many as the system lets a process have, with some to spare: what could not be accepted
    would be tried again at once, for ever."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES
    if soft != RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == RLIM_INFINITY else min(wanted, hard)
        setrlimit(RLIMIT_NOFILE, (soft, hard))
    return MOST_CONNECTIONS if soft == RLIM_INFINITY else min(MOST_CONNECTIONS, soft - SPARE_FILES)


class Dispatcher:
    """Threads for slices of runs, and threads for all else: neither waits for the other."""

    def __init__(self, threads: int) -> None:
        self._slices, self._others = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        kept = max(1, threads // 4)
        self._slices.set_thread_count(max(1, threads - kept))
        self._others.set_thread_count(kept)

    def add_task(self, channel: HTTPChannel) -> None:
        """Serve the channel's first request when a thread is free."""
        path = getattr(channel.requests[0], "path", None)  # a request that is no HTTP has none
        to = self._slices if path in SLICES else self._others
        to.add_task(channel)

    def shutdown(self) -> None:
        """Begin nothing more."""
        for one in (self._slices, self._others):
            one.shutdown(timeout=0)


class Worker(GunicornWorker):  # type: ignore[misc]
    """One process of gunicorn's, with waitress in it."""

    def run(self) -> None:
        """Serve until gunicorn says stop; then end what was begun, within its grace."""
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._sockets: dict[int, Any] = {}
        dispatcher = Dispatcher(self.cfg.threads)
        create_server(
            self.wsgi,
            map=self._sockets,
            _dispatcher=dispatcher,
            sockets=[listener.sock for listener in self.sockets],
            connection_limit=_most_connections(),
            max_request_body_size=MOST_BYTES,
            max_request_header_size=MOST_HEADER_BYTES,
            channel_timeout=SILENT_SECONDS,
            # The app itself looks at what proxies say, and whether there is one.
            clear_untrusted_proxy_headers=False,
            ident=None,
        )
        while self.alive and self.ppid == os.getppid():
            self._turn(1.0)
        for one in list(self._sockets.values()):
            one.accepting = False
        until = time.monotonic() + self.cfg.graceful_timeout
        quiet = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < (until if self._busy() else min(quiet, until)):
            self._turn(0.1)
        dispatcher.shutdown()

    def _turn(self, seconds: float) -> None:
        self.notify()
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._sockets, count=1)

    def _busy(self) -> bool:
        """Whether a request is being served, or its answer sent."""
        channels = [one for one in self._sockets.values() if isinstance(one, HTTPChannel)]
        return any(one.requests or one.total_outbufs_len for one in channels)

"""The stand-in put together, and its threads: for time, for finding apps, and one per call."""

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from app.local.inngest import codec
from app.local.inngest.engine import Engine
from app.local.inngest.functions import local_url
from app.local.inngest.runs import Call
from app.local.inngest.server import create_app
from app.local.inngest.wire import MAX_CALLS, Caller
from app.local.serving import LoopbackServer
from app.local.standin import StandIn

UNSYNCED_SECONDS = 1.0
SYNCED_SECONDS = 5.0
JOIN_SECONDS = 1.0


class InngestStandIn(StandIn):
    """A server that speaks Inngest's protocol on loopback. Starts once; all state is in memory.

    `tick` and `call_timeout` are in seconds, `gap_scale` multiplies the gaps between attempts and
    (below 1) the whole seconds that it sleeps and waits for, `clock` gives Unix seconds. With both
    keys it signs and demands keys; with none it is a dev server.
    """

    def __init__(
        self,
        apps: Iterable[str] = (),
        event_key: str | None = None,
        signing_key: str | None = None,
        tick: float = 0.02,
        gap_scale: float = 1.0,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
        call_timeout: float = 300.0,
    ) -> None:
        if (event_key is None) is not (signing_key is None):
            raise ValueError("give both keys, or none for a dev server")
        # A source of its own: how often identifiers are drawn must not move the faults.
        super().__init__(seed)
        self.kind = "dev" if signing_key is None else "cloud"
        self.event_key = event_key
        self.bearer = None if signing_key is None else codec.bearer(signing_key)
        self.clock = clock
        self.lock = threading.RLock()
        self.engine = Engine(random.Random(seed), gap_scale)
        self._apps = [local_url(app) for app in apps]
        self._tick = tick
        self._caller = Caller(clock, call_timeout, signing_key)
        self._free = threading.Semaphore(MAX_CALLS)
        self._server: LoopbackServer | None = None
        # Daemons, so that a call to a hung app cannot hold up the end of the process.
        jobs = (self._keep_time, self._find_apps)
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]

    def start(self, port: int = 0) -> str:
        """Serve on `port` (0 for a free one) and begin to call the apps; gives the URL."""
        self._server = LoopbackServer(create_app(self), port)
        self.url = self._server.start()
        for thread in self._threads:
            thread.start()
        return self.url

    def stop(self) -> None:
        """End at once; runs in flight are lost, as with a real server without Redis."""
        if self._server is not None:
            self._stopped.set()
            for thread in self._threads:
                thread.join(JOIN_SECONDS)
            self._caller.close()
            self._server.stop()

    def sync(self) -> dict[str, str | None]:
        """Ask the apps to register now; gives for each URL why it did not, or None."""
        return {app: self._caller.ask(app) for app in self._apps}

    def runs(self) -> list[dict[str, Any]]:
        """Every run kept, oldest first."""
        with self.lock:
            return [run.as_listed() for run in self.engine.runs.values()]

    def _find_apps(self) -> None:
        while True:
            synced = not any(self.sync().values())
            if self._stopped.wait(SYNCED_SECONDS if synced else UNSYNCED_SECONDS):
                return

    def _keep_time(self) -> None:
        while not self._stopped.wait(self._tick):
            with self.lock:
                due = self.engine.take_due(self.clock())
            for call in due:
                self._free.acquire()
                if self._stopped.is_set():
                    return
                threading.Thread(target=self._work, args=(call,), daemon=True).start()

    def _work(self, call: Call) -> None:
        try:
            answer = self._caller.call(call)
        finally:
            self._free.release()
        with self.lock:
            if not self._stopped.is_set():
                self.engine.answer(call, answer, self.clock())

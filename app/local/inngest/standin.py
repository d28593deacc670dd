"""The stand-in put together, and its threads: for time, for finding apps, and one per call."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from app.local.inngest.engine import Engine
from app.local.inngest.functions import local_url
from app.local.inngest.history import History
from app.local.inngest.keys import NO_KEYS, Keys
from app.local.inngest.runs import Call
from app.local.inngest.server import create_app
from app.local.inngest.wire import MAX_CALLS, Caller
from app.local.standin import MEMORY, StandIn

UNSYNCED_SECONDS = 1.0
SYNCED_SECONDS = 5.0


class InngestStandIn(StandIn):
    """A server that speaks Inngest's protocol. Its functions and runs outlive it in the file
    `data`; what it was about to call does not, as with a real server without Redis.

    `tick` is in seconds, `gap_scale` multiplies the gaps between attempts and (below 1) the whole
    seconds that it sleeps and waits for, `clock` gives Unix seconds. Without keys it is a dev
    server.
    """

    def __init__(
        self,
        apps: Iterable[str] = (),
        *,
        keys: Keys = NO_KEYS,
        tick: float = 0.02,
        gap_scale: float = 1.0,
        clock: Callable[[], float] = time.time,
        data: str = MEMORY,
    ) -> None:
        super().__init__()
        self.keys = keys
        self.clock = clock
        self.history = History(data)
        self.engine = Engine(gap_scale, self.history)
        self.engine.resume(clock())
        self._apps = [local_url(app) for app in apps]
        self._tick = tick
        self._caller = Caller(clock, keys)
        self._free = threading.Semaphore(MAX_CALLS)
        self.app = create_app(self.engine, keys, clock, lambda at: self.times(at))

    def times(self, at: float) -> list[float]:
        """When to act on an event of `at`, Unix seconds: once, on time, but on a bad day."""
        return [at]

    def work(self) -> Sequence[Callable[[], None]]:
        return (self._keep_time, self._find_apps)

    def close(self) -> None:
        """Drop the connections and the file."""
        self._caller.close()
        with self.engine.lock:
            self.history.close()

    def sync(self) -> dict[str, str | None]:
        """Ask the apps to register now; for each URL why it did not, or None."""
        return {app: self._caller.ask(app) for app in self._apps}

    def _find_apps(self) -> None:
        while True:
            synced = not any(self.sync().values())
            if self._stopped.wait(SYNCED_SECONDS if synced else UNSYNCED_SECONDS):
                return

    def _keep_time(self) -> None:
        while not self._stopped.wait(self._tick):
            with self.engine.lock:
                due = self.engine.take_due(self.clock())
            for call in due:
                self._free.acquire()
                if self._stopped.is_set():
                    return
                threading.Thread(target=self._make, args=(call,), daemon=True).start()

    def _make(self, call: Call) -> None:
        try:
            answer = self._caller.call(call)
        finally:
            self._free.release()
        with self.engine.lock:
            if not self._stopped.is_set():
                self.engine.answer(call, answer, self.clock())

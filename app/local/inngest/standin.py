"""The stand-in put together, for tests and for the command line."""

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from app.local.inngest import codec
from app.local.inngest.driver import Driver
from app.local.inngest.engine import Engine
from app.local.inngest.faults import Dice, Faults
from app.local.inngest.server import create_app
from app.local.inngest.sync import Syncer
from app.local.serving import LoopbackServer


class InngestStandIn:
    """A server that speaks Inngest's protocol on loopback. Starts once; all state is in memory.

    `tick` and `call_timeout` are in seconds, `gap_scale` multiplies the gaps between attempts,
    `clock` gives Unix seconds. With both keys it signs and demands keys; with none it is a dev
    server. Used in a `with` block it starts on a free port.
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
        rng = random.Random(seed)
        self.kind = "dev" if signing_key is None else "cloud"
        self.event_key = event_key
        self.bearer = None if signing_key is None else codec.bearer(signing_key)
        self.clock = clock
        self.lock = threading.RLock()
        self.engine = Engine(rng, gap_scale)
        # A source of its own: how often identifiers are drawn must not move the faults.
        self.dice = Dice(random.Random(seed))
        self.app = create_app(self)
        self._driver = Driver(self.engine, self.lock, clock, tick, call_timeout, signing_key)
        self._syncer = Syncer(tuple(apps), self.kind, signing_key, clock)
        self._server: LoopbackServer | None = None

    def start(self, port: int = 0) -> str:
        """Serve on `port` (0 for a free one) and begin to call the apps; gives the URL."""
        self._server = LoopbackServer(self.app, port)
        self._driver.start()
        url = self._server.start()
        self._syncer.start()
        return url

    def stop(self) -> None:
        """End at once; runs in flight are lost, as with a real server without Redis."""
        self._driver.stop()
        self._syncer.stop()
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves, once started."""
        if self._server is None:
            raise RuntimeError("the stand-in has not been started")
        return self._server.url

    def sync(self) -> dict[str, str | None]:
        """Ask the apps to register now; gives for each URL why it did not, or None."""
        return self._syncer.sync()

    def fault(self, **faults: float) -> None:
        """Set the faults, all others to nought: see `Faults` for their names."""
        self.dice.faults = Faults.model_validate(faults)

    def runs(self) -> list[dict[str, Any]]:
        """Every run kept, oldest first."""
        with self.lock:
            return [run.as_listed() for run in self.engine.runs.values()]

    def idle(self) -> bool:
        """Whether no run is under way, asleep or waiting."""
        with self.lock:
            return not self.engine.active

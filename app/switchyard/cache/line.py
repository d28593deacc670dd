"""The line to the cache: a deadline for all of a call, and a circuit breaker."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

from redis.exceptions import ResponseError
from upstash_redis.errors import UpstashError

from app.switchyard import effects
from app.switchyard.cache.carriers import Carrier
from app.switchyard.errors import SwitchyardError

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 0.15
"""All that an outage costs a caller, once."""
RETRY_SECONDS = 3.0
# It writes: a cache that can only be read is of no use.
_PROBE = ("SET", "switchyard:probe", "1", "PX", "1000")


class CacheAway(SwitchyardError):
    """The cache does not answer, or not in time: what was asked of it may or may not be done."""

    status = 503
    title = "Cache away"


class Line:
    """Carries commands, each within `seconds` whatever happens (looking up a name included).

    After a failure nothing is asked for RETRY_SECONDS; then one probe, which no caller waits for
    and which therefore has the time to open a connection to a cache that is far away. An outage is
    logged once. Safe in threads and after a fork.
    """

    def __init__(
        self,
        connect: Callable[[], Carrier],
        *,
        seconds: float = DEADLINE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._seconds = seconds
        self._monotonic = monotonic
        self.begin()
        _lines.add(self)

    def begin(self) -> None:
        """Forget connections and outages, as a forked child must: they are its parent's."""
        self._lock = threading.Lock()
        self._carrier: Carrier | None = None
        self._away_until: float | None = None
        self._probing = False

    def run(self, command: Sequence[str]) -> Any:
        """The answer to one command. Raises CacheAway."""
        effects.allow("using the cache")
        if self._away_until is not None:
            self._probe()
            raise CacheAway("the cache is away")
        answered: SimpleQueue[Any] = SimpleQueue()
        self._start(command, answered.put)
        try:
            answer = answered.get(timeout=self._seconds)
        except Empty:
            answer = CacheAway(f"no answer from the cache within {self._seconds:g} s")
        if isinstance(answer, CacheAway):
            self._failed(answer)
            raise answer
        return answer

    def _start(self, command: Sequence[str], tell: Callable[[Any], None]) -> None:
        with self._lock:  # making a client takes a while, of this process's own, and only once
            carrier = self._carrier = self._carrier or self._connect()
        # A thread, as no timeout of a client bounds a call as a whole.
        try:
            threading.Thread(target=_ask, args=(carrier, command, tell), daemon=True).start()
        except RuntimeError as no_thread:
            tell(CacheAway(str(no_thread)))

    def _failed(self, failure: CacheAway) -> None:
        with self._lock:
            first = self._away_until is None
            self._away_until = self._monotonic() + RETRY_SECONDS
        if first:
            log.warning("the cache is away, going on without it: %s", failure)

    def _probe(self) -> None:
        with self._lock:
            until = self._away_until
            if self._probing or until is None or self._monotonic() < until:
                return
            self._probing = True
        self._start(_PROBE, self._probed)

    def _probed(self, answer: Any) -> None:
        back = not isinstance(answer, CacheAway)
        with self._lock:
            self._probing = False
            self._away_until = None if back else self._monotonic() + RETRY_SECONDS
        if back:
            log.info("the cache is back")


def _ask(carrier: Carrier, command: Sequence[str], tell: Callable[[Any], None]) -> None:
    try:
        answer = carrier.run(command)
    except (ResponseError, UpstashError) as failure:
        # Its first word: the rest may show keys and values.
        answer = CacheAway(f"{type(failure).__name__} {str(failure).partition(' ')[0]}")
    except Exception as failure:  # noqa: BLE001 - whatever else either client raises
        answer = CacheAway(type(failure).__name__)
    tell(answer)


_lines: WeakSet[Line] = WeakSet()


def _begin_anew() -> None:
    for line in list(_lines):
        line.begin()


os.register_at_fork(after_in_child=_begin_anew)

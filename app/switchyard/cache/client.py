"""What speaks to the cache: Upstash's client over REST or redis-py, behind a circuit breaker."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from weakref import WeakSet

from pydantic import SecretStr
from redis import Redis, __version__
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from app.switchyard import effects
from app.switchyard.errors import SwitchyardError
from app.switchyard.text import reason

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 0.15
"""All that an outage costs a caller, once."""
RETRY_SECONDS = 3.0
CALL_SECONDS = 2.0
"""After this a client itself gives up: its caller did long before, but its thread must end."""
IDLE_SECONDS = 200.0
"""How long a connection is kept unused: opening one to a server 50 ms away takes longer than a
caller waits."""
# redis-py 4 speaks no other, and takes no such option.
_PROTOCOL: dict[str, Any] = {} if int(__version__.partition(".")[0]) < 5 else {"protocol": 2}
# It writes: a cache that can only be read is of no use.
_PROBE = ("SET", "switchyard:probe", "1", "PX", "1000")


class CacheUnavailable(SwitchyardError, status=503, title="Cache unavailable"):
    """The cache does not answer, or not in time: what was asked of it may or may not be done."""


class Client(Protocol):
    """Sends one command at a time: a pipeline hides its errors behind the first one, or behind an
    AttributeError. What belongs together is one script."""

    def run(self, command: Sequence[str]) -> Any:
        """The answer, its strings as str. Raises CacheUnavailable, or what its library raises."""
        ...


class UpstashClient:
    """Upstash Redis over REST."""

    def __init__(self, url: str, token: SecretStr) -> None:
        # Imported here: who has a Redis of their own need not have these.
        import httpx
        from upstash_redis import Redis as Upstash
        from upstash_redis.errors import UpstashError

        self._refusal = UpstashError
        self._redis: Any = Upstash(
            url.rstrip("/"),
            token.get_secret_value(),
            rest_retries=0,  # it would sleep 3 s, and repeat what must not be
            allow_telemetry=False,
            # Needs a header that all threads share: one changes it while another goes through it.
            read_your_writes=False,
        )
        # The library's own HTTP client waits for ever for an answer, and keeps a connection 5 s.
        self._redis._http._client = httpx.Client(
            timeout=CALL_SECONDS, limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS)
        )

    def run(self, command: Sequence[str]) -> Any:
        """See Client."""
        try:
            return self._redis.execute(list(command))
        except self._refusal as failure:
            raise _refused(failure) from None


class RedisClient:
    """A Redis or Valkey server by its URL."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(
            url,
            decode_responses=True,
            **_PROTOCOL,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CALL_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def run(self, command: Sequence[str]) -> Any:
        """See Client."""
        try:
            return self._redis.execute_command(*command)
        except ResponseError as failure:
            raise _refused(failure) from None


def _refused(failure: Exception) -> CacheUnavailable:
    # Its first word: the rest may show keys and values.
    return CacheUnavailable(f"{type(failure).__name__} {str(failure).partition(' ')[0]}")


class CircuitBreaker:
    """Runs commands, each within `seconds` whatever happens (looking up a name included).

    After a failure nothing is asked for RETRY_SECONDS; then one probe, which no caller waits for
    and which therefore has the time to open a connection to a distant cache. An outage is
    logged once. Safe in threads and after a fork.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        seconds: float = DEADLINE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._seconds = seconds
        self._monotonic = monotonic
        self.begin()
        _breakers.add(self)

    def begin(self) -> None:
        """Forget connections and outages, as a forked child must: they are its parent's."""
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._open_until: float | None = None
        self._probing = False

    def run(self, command: Sequence[str]) -> Any:
        """The answer to one command. Raises CacheUnavailable."""
        effects.allow("using the cache")
        if self._open_until is not None:
            self._probe()
            raise CacheUnavailable("the cache is unavailable")
        answers: SimpleQueue[Any] = SimpleQueue()
        self._start(command, answers.put)
        try:
            answer = answers.get(timeout=self._seconds)
        except Empty:
            answer = CacheUnavailable(f"no answer from the cache within {self._seconds:g} s")
        if isinstance(answer, CacheUnavailable):
            self._failed(answer)
            raise answer
        return answer

    def _start(self, command: Sequence[str], answer: Callable[[Any], None]) -> None:
        with self._lock:  # making a client takes a while, of this process's own, and only once
            client = self._client = self._client or self._connect()
        # A thread, as no timeout of a client bounds a call as a whole.
        try:
            threading.Thread(target=_ask, args=(client, command, answer), daemon=True).start()
        except RuntimeError as no_thread:
            answer(CacheUnavailable(str(no_thread)))

    def _failed(self, failure: CacheUnavailable) -> None:
        with self._lock:
            first = self._open_until is None
            self._open_until = self._monotonic() + RETRY_SECONDS
        if first:
            log.warning("the cache is unavailable, going on without it: %s", failure)

    def _probe(self) -> None:
        with self._lock:
            until = self._open_until
            if self._probing or until is None or self._monotonic() < until:
                return
            self._probing = True
        self._start(_PROBE, self._probed)

    def _probed(self, answer: Any) -> None:
        back = not isinstance(answer, CacheUnavailable)
        with self._lock:
            self._probing = False
            self._open_until = None if back else self._monotonic() + RETRY_SECONDS
        if back:
            log.info("the cache is back")


def _ask(client: Client, command: Sequence[str], answer: Callable[[Any], None]) -> None:
    try:
        given = client.run(command)
    except CacheUnavailable as failure:
        given = failure
    except Exception as failure:  # noqa: BLE001 - whatever else either library raises
        given = CacheUnavailable(reason(failure))
    answer(given)


_breakers: WeakSet[CircuitBreaker] = WeakSet()


def _begin_anew() -> None:
    for breaker in list(_breakers):
        breaker.begin()


os.register_at_fork(after_in_child=_begin_anew)

"""The cache's clients, Upstash's over REST and redis-py, behind a circuit breaker."""

from __future__ import annotations

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
from app.switchyard.logs import logger_of
from app.switchyard.text import reason

log = logger_of(__name__)

DEADLINE_SECONDS = 0.15
"""The most that an outage costs one caller, once."""
RETRY_SECONDS = 3.0
CALL_SECONDS = 2.0
"""When a client itself gives up. Its caller did so long before, but its thread must end."""
IDLE_SECONDS = 200.0
"""How long an unused connection is kept. Opening one to a server 50 ms away takes longer than a
caller waits."""
# redis-py 4 supports no other protocol, and has no such option.
_PROTOCOL: dict[str, Any] = {} if int(__version__.partition(".")[0]) < 5 else {"protocol": 2}
# It writes, since a read-only cache is useless.
_PROBE = ("SET", "switchyard:probe", "1", "PX", "1000")


class CacheUnavailable(SwitchyardError, status=503, title="Cache unavailable"):
    """The cache does not answer in time. The command may or may not have been executed."""


class Client(Protocol):
    """Sends one command at a time, since a pipeline hides errors behind the first one or behind an
    AttributeError. Commands that belong together are one script."""

    def run(self, command: Sequence[str]) -> Any:
        """The answer, with strings as str. Raises CacheUnavailable, or the library's errors."""
        ...


class UpstashClient:
    """Upstash Redis over REST."""

    def __init__(self, url: str, token: SecretStr) -> None:
        # Imported here, since an app with its own Redis does not need it.
        import httpx
        from upstash_redis import Redis as Upstash
        from upstash_redis.errors import UpstashError

        self._refusal = UpstashError
        self._redis: Any = Upstash(
            url.rstrip("/"),
            token.get_secret_value(),
            rest_retries=0,  # a retry sleeps for 3 s, and repeats what it must not
            allow_telemetry=False,
            # It needs a header that all threads share, which one changes while another reads it.
            read_your_writes=False,
        )
        # The library's own HTTP client has no timeout and keeps connections for only 5 s.
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
    """A Redis or Valkey server, by its URL."""

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
    # Only the first word, since the rest may show keys and values.
    return CacheUnavailable(f"{type(failure).__name__} {str(failure).partition(' ')[0]}")


class CircuitBreaker:
    """Runs commands, each within `seconds` whatever happens, including name resolution.

    After a failure it sends nothing for RETRY_SECONDS and then one probe, for which no caller
    waits, so that there is time to open a connection to a distant cache. An outage is logged once.
    It is safe with threads and after a fork.
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
        """Forget connections and outages, which in a forked child are its parent's."""
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
        with self._lock:  # creating a client takes a while, and only once in a process
            client = self._client = self._client or self._connect()
        # A thread, since no client's timeout bounds a whole call.
        try:
            threading.Thread(target=_ask, args=(client, command, answer), daemon=True).start()
        except RuntimeError as no_thread:
            answer(CacheUnavailable(str(no_thread)))

    def _failed(self, failure: CacheUnavailable) -> None:
        with self._lock:
            first = self._open_until is None
            self._open_until = self._monotonic() + RETRY_SECONDS
        if first:
            log.warning("the cache is unavailable, continuing without it: %s", failure)

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
    except Exception as failure:  # noqa: BLE001 - either library may raise anything else
        given = CacheUnavailable(reason(failure))
    answer(given)


_breakers: WeakSet[CircuitBreaker] = WeakSet()


def _begin_anew() -> None:
    for breaker in list(_breakers):
        breaker.begin()


os.register_at_fork(after_in_child=_begin_anew)

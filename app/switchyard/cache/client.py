"""The cache's clients, Upstash's over REST and redis-py, behind a circuit breaker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any
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
from app.switchyard.threads import in_thread

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


Client = Callable[[Sequence[str]], Any]
"""Sends a command and returns the answer, with strings as str. Raises CacheUnavailable, or the
library's errors. It takes one command at a time, since a pipeline hides errors behind the first one
or behind an AttributeError. Commands that belong together are one script."""


def upstash_client(url: str, token: SecretStr) -> Client:
    """Upstash Redis over REST."""
    # Imported here, since an app with its own Redis does not need it.
    import httpx
    from upstash_redis import Redis as Upstash
    from upstash_redis.errors import UpstashError

    redis: Any = Upstash(
        url.rstrip("/"),
        token.get_secret_value(),
        rest_retries=0,  # a retry sleeps for 3 s, and repeats what it must not
        allow_telemetry=False,
        # It needs a header that all threads share, which one changes while another reads it.
        read_your_writes=False,
    )
    # The library's own HTTP client has no timeout and keeps connections for only 5 s.
    redis._http._client = httpx.Client(
        timeout=CALL_SECONDS, limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS)
    )
    return partial(_run, redis.execute, UpstashError)


def redis_client(url: str) -> Client:
    """A Redis or Valkey server, by its URL."""
    redis: Any = Redis.from_url(
        url,
        decode_responses=True,
        **_PROTOCOL,
        socket_timeout=CALL_SECONDS,
        socket_connect_timeout=CALL_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return partial(_run, lambda command: redis.execute_command(*command), ResponseError)


def _run(execute: Client, refusal: type[Exception], command: Sequence[str]) -> Any:
    try:
        return execute(list(command))
    except refusal as failure:
        # Only the first word, since the rest may show keys and values.
        word = str(failure).partition(" ")[0]
        raise CacheUnavailable(f"{type(failure).__name__} {word}") from None


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
        try:
            return self._ask(command).result(self._seconds)
        except TimeoutError:
            failure = CacheUnavailable(f"no answer from the cache within {self._seconds:g} s")
        except CacheUnavailable as refused:
            failure = refused
        except Exception as error:  # noqa: BLE001 - either library may raise anything else
            failure = CacheUnavailable(reason(error))
        self._failed(failure)
        raise failure

    def _ask(self, command: Sequence[str]) -> Future[Any]:
        with self._lock:  # creating a client takes a while, and only once in a process
            client = self._client = self._client or self._connect()
        return in_thread(partial(client, command))

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
        self._ask(_PROBE).add_done_callback(self._probed)

    def _probed(self, answer: Future[Any]) -> None:
        back = answer.exception() is None
        with self._lock:
            self._probing = False
            self._open_until = None if back else self._monotonic() + RETRY_SECONDS
        if back:
            log.info("the cache is back")


_breakers: WeakSet[CircuitBreaker] = WeakSet()


def _begin_anew() -> None:
    for breaker in list(_breakers):
        breaker.begin()


os.register_at_fork(after_in_child=_begin_anew)

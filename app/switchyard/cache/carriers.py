"""What carries a command to the cache: Upstash's client over REST, or redis-py to a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import httpx
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from upstash_redis import Redis as Upstash

CALL_SECONDS = 2.0
"""After this a carrier itself gives up: its caller did long before, but its thread must end."""
IDLE_SECONDS = 200.0
"""How long a connection is kept unused: opening one to a server 50 ms away takes longer than a
caller waits."""


class Carrier(Protocol):
    """Sends one command at a time: a pipeline hides its errors behind the first one, or behind an
    AttributeError. What belongs together is one script."""

    def run(self, command: Sequence[str]) -> Any:
        """The answer, its strings as str. Raises whatever its client raises."""
        ...


class UpstashCarrier:
    """Upstash Redis over REST."""

    def __init__(self, url: str, token: SecretStr) -> None:
        self._redis: Any = Upstash(
            url.rstrip("/"),
            token.get_secret_value(),
            rest_retries=0,  # it would sleep 3 s, and repeat what must not be
            allow_telemetry=False,
            # Needs a header that all threads share: one changes it while another goes through it.
            read_your_writes=False,
        )
        # The client's own HTTP client waits for ever for an answer, and keeps a connection for 5 s.
        self._redis._http._client = httpx.Client(
            timeout=CALL_SECONDS, limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS)
        )

    def run(self, command: Sequence[str]) -> Any:
        """See Carrier."""
        return self._redis.execute(list(command))


class RedisCarrier:
    """A Redis or Valkey server by its URL."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CALL_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def run(self, command: Sequence[str]) -> Any:
        """See Carrier."""
        return self._redis.execute_command(*command)

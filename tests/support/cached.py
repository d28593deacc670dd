"""Caches over both clients for tests, and processes of their own that use one at the same time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from redis import Redis

from app.switchyard.cache import client as clients
from app.switchyard.cache import limits
from app.switchyard.cache.cache import Cache
from app.switchyard.cache.client import CircuitBreaker, Client, redis_client, upstash_client
from tests.support.forks import Forked
from tests.support.serving import serve_in_thread
from tests.support.upstash import UpstashStandIn
from tests.support.waiting import PATIENCE_SECONDS, until

TOKEN = "rest-token-of-this-test"
CLIENTS = ("redis", "upstash")


def connecting(client: str, url: str, token: str = TOKEN) -> Callable[[], Client]:
    if client == "redis":
        return lambda: redis_client(url)
    return lambda: upstash_client(url, SecretStr(token))


def patient(client: str, url: str) -> Cache:
    """A cache with all the time it needs: a busy machine is no outage."""

    def connect() -> Client:
        with patch.object(clients, "CALL_SECONDS", PATIENCE_SECONDS):
            return connecting(client, url)()

    return Cache(CircuitBreaker(connect, seconds=PATIENCE_SECONDS))


class Kit:
    """One client's way to an empty Valkey, and a look at it from behind."""

    def __init__(self, client: str, url: str, redis_url: str) -> None:
        self.client = client
        self.url = url
        self.raw: Any = Redis.from_url(redis_url, decode_responses=True)
        self.raw.flushdb()
        self.redis_url = redis_url
        self.cache = patient(client, url)

    def together(self, mode: str, processes: int = 4, **more: Any) -> list[Any]:
        """What each of several processes reports that were begun at once."""
        spec = {"client": self.client, "url": self.url, "redis_url": self.redis_url, **more}
        command = ["-m", "tests.support.cached", mode, json.dumps(spec)]
        begun = [Forked(command, env=os.environ, stdout=-1, text=True) for _ in range(processes)]
        try:
            ended = [process.communicate(timeout=PATIENCE_SECONDS) for process in begun]
        finally:
            for process in begun:
                process.kill()
                process.wait()
        return [json.loads(out) for out, _ in ended]


@contextmanager
def kit_of(client: str, redis_url: str) -> Iterator[Kit]:
    if client == "redis":
        yield Kit(client, redis_url, redis_url)
        return
    standin = UpstashStandIn(redis_url, TOKEN)
    with serve_in_thread(standin) as url:
        yield Kit(client, url, redis_url)
    standin.close()


@pytest.fixture(params=CLIENTS)
def kit(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Kit]:
    with kit_of(request.param, redis_url) as made:
        yield made


def _compute(cache: Cache, spec: dict[str, Any]) -> Any:
    """Every thread asks for one key; whoever computes does so until all have arrived."""
    raw: Any = Redis.from_url(spec["redis_url"])

    def compute() -> str:
        raw.incr("computed")
        until(lambda: int(raw.get("arrived") or 0) >= spec["callers"])
        return "new"

    def one(_: int) -> Any:
        raw.incr("arrived")
        return cache.get_or_compute(spec["key"], compute, spec["ttl"])

    with ThreadPoolExecutor(spec["threads"]) as pool:
        return list(pool.map(one, range(spec["threads"])))


def _limit(cache: Cache, spec: dict[str, Any]) -> Any:
    """How often something was let through; every thread asks as often as the limit, and once."""

    def one(_: int) -> int:
        closed = limits.IfUnavailable.CLOSED
        asked = (
            limits.allow(cache, "t", spec["limit"], spec["window"], if_unavailable=closed)
            for _ in range(spec["limit"] + 1)
        )
        return sum(verdict.allowed for verdict in asked)

    with ThreadPoolExecutor(3) as pool:
        return sum(pool.map(one, range(3)))


def main() -> None:
    spec = json.loads(sys.argv[2])
    cache = patient(spec["client"], spec["url"])
    work = {"compute": _compute, "limit": _limit}[sys.argv[1]]
    sys.stdout.write(json.dumps(work(cache, spec)))


if __name__ == "__main__":
    main()

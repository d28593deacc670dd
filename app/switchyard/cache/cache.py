"""The cache: values that may be lost at any time. Without it everything works, only slower."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from app.switchyard.cache.client import (
    CacheUnavailable,
    CircuitBreaker,
    redis_client,
    upstash_client,
)
from app.switchyard.config import Settings
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput

MAX_KEY, MAX_VALUE = 200, 900_000
"""The most characters of a value, and bytes of its request, where it is JSON within JSON: not every
plan of Upstash accepts requests above a megabyte."""
MAX_SECONDS = 30 * 24 * 3600
EARLY = 5
"""A value is recomputed in the last fifth of its time, while it still serves."""
STALE_WAIT_SECONDS = 0.5
LEASE_SECONDS = 30.0
_NAP_SECONDS, _LONGEST_NAP_SECONDS = 0.01, 0.25

_NOTHING = object()

_LOOK = """
local left, mine = redis.call('PTTL', KEYS[1]), 0
if left <= tonumber(ARGV[3]) and redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  mine = 1
end
return {redis.call('GET', KEYS[1]), left, mine}
"""
_STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class Cache:
    """JSON values under keys of 1 to 200 printable characters, kept for a time in seconds.

    A cache that is unavailable returns nothing and keeps nothing, and only `script` raises. Bad
    keys, times and values raise BadInput whether it is available or not.
    """

    def __init__(
        self, breaker: CircuitBreaker, *, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._breaker = breaker
        self._pause = pause

    def script(self, lua: str, keys: Sequence[str], *args: str | int) -> Any:
        """The script's result, in one atomic round trip. See `key`. Raises CacheUnavailable."""
        return self._breaker.run(["EVAL", lua, str(len(keys)), *keys, *map(str, args)])

    def get(self, name: str) -> Any:
        """The value that was put under `name`, or None."""
        value = _decoded(self._quietly("GET", key("value", name)))
        return None if value is _NOTHING else value

    def put(self, name: str, value: Any, ttl: float) -> bool:
        """Keep `value` for `ttl` seconds. Whether it was kept."""
        words = key("value", name), encoded(name, value), "PX", str(milliseconds(ttl))
        return self._quietly("SET", *words) is not None

    def delete(self, name: str) -> bool:
        """Forget the value under `name`, including one that is being computed.

        False where the cache is unavailable: the value may return with it for the rest of its time.
        """
        return self._quietly("DEL", key("value", name), *_computed(name)) is not None

    def get_or_compute(
        self,
        name: str,
        compute: Callable[[], Any],
        ttl: float,
        *,
        lease: float = LEASE_SECONDS,
        refresh: bool = False,
    ) -> Any:
        """The value under `name`. If needed it is computed, by one caller at a time over all
        processes.

        In the last fifth of its `ttl`, or at any time with `refresh`, the first caller recomputes
        the value while all others still get the old one: stale-while-revalidate (RFC 5861) with a
        single revalidator. Unlike with XFetch (https://doi.org/10.14778/2757807.2757813) it is
        computed exactly once. After its `ttl` the old value serves for as long again if no new one
        arrives within half a second. Without any value, callers wait for the one who computes, for
        up to its `lease`; a later result is not kept. Without a cache everyone computes.
        """
        ttl_ms, lease_ms = milliseconds(ttl), milliseconds(lease)
        due = 2 * ttl_ms if refresh else ttl_ms + ttl_ms // EARLY
        keys, token = _computed(name), uuid4().hex
        # Sent even where the look failed, since that may still have taken the lease.
        store = partial(self._quietly, "EVAL", _STORE, "2", *keys, token)
        waited, nap = 0.0, _NAP_SECONDS
        while True:
            try:
                text, left, mine = self.script(_LOOK, keys, token, lease_ms, due)
            except CacheUnavailable:
                break
            value = _decoded(text)
            if value is _NOTHING and text is not None:
                self._quietly("DEL", keys[0])
            if mine or (value is _NOTHING and waited >= lease):
                break
            if value is not _NOTHING and (left > ttl_ms or waited >= STALE_WAIT_SECONDS):
                return value
            self._pause(nap)
            waited, nap = waited + nap, min(nap * 1.5, _LONGEST_NAP_SECONDS)
        try:
            computed = encoded(name, compute())
        except BaseException:
            store("", "0")
            raise
        store(computed, str(2 * ttl_ms))
        return json.loads(computed)

    def _quietly(self, *command: str) -> Any:
        """The answer, or None where the cache is unavailable."""
        try:
            return self._breaker.run(command)
        except CacheUnavailable:
            return None


def open_cache(settings: Settings) -> Cache:
    """Upstash Redis where its URL and token are set, or else the Redis in REDIS_URL."""
    url, token = settings.upstash_redis_rest_url, settings.upstash_redis_rest_token

    connect = partial(redis_client, settings.redis_url)
    if url is not None and token is not None:
        connect = partial(upstash_client, url, token)
    return Cache(CircuitBreaker(connect))


def key(kind: str, name: str) -> str:
    """The full key of `name`, in a namespace for its kind. Raises BadInput."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_KEY or not name.isprintable():
        raise BadInput(f"a cache key has 1 to {MAX_KEY} printable characters")
    return f"switchyard:{kind}:{name}"


def milliseconds(seconds: float) -> int:
    """How long to keep something. Raises BadInput unless it is above 0 and at most 30 days."""
    if not 0.001 <= seconds <= MAX_SECONDS:
        raise BadInput(f"a time in the cache must be above 0 and at most {MAX_SECONDS} seconds")
    return round(seconds * 1000)


def encoded(name: str, value: Any) -> str:
    """`value` as JSON. Raises BadInput where it is not JSON, or too long."""
    try:
        text = canonical_json(value)
    except (TypeError, ValueError, RecursionError) as unfit:
        raise BadInput(f"{name}: not a JSON value: {unfit}") from None
    if (size := len(json.dumps(text))) > MAX_VALUE:
        raise BadInput(f"{name}: its JSON takes {size} bytes to send; at most {MAX_VALUE} are kept")
    return text


def _decoded(text: str | None) -> Any:
    """The value that was kept, or _NOTHING, also for an entry that is not one of ours."""
    try:
        return _NOTHING if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _computed(name: str) -> list[str]:
    """The keys of the value computed for `name` and of the lease for computing it."""
    return [key("computed", name), key("lease", name)]

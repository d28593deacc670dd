"""Who is present: seen within the last minute, by the cache's own clock."""

from __future__ import annotations

from contextlib import suppress

from app.switchyard.cache.cache import Cache, key
from app.switchyard.cache.client import CacheUnavailable

PRESENT_SECONDS = 60
_KEY = "switchyard:presence"
_SEEN = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_PRESENT = """
local oldest = redis.call('TIME')[1] - ARGV[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', oldest))
return redis.call('ZREVRANGE', KEYS[1], 0, -1)
"""


def seen(cache: Cache, user: str) -> None:
    """Note that `user` is present, unless the cache is unavailable. Raises BadInput."""
    key("presence", user)
    with suppress(CacheUnavailable):
        cache.script(_SEEN, [_KEY], user, PRESENT_SECONDS)


def present(cache: Cache) -> list[str]:
    """Who was seen within PRESENT_SECONDS, latest first. Nobody, without a cache."""
    with suppress(CacheUnavailable):
        return list(cache.script(_PRESENT, [_KEY], PRESENT_SECONDS))
    return []

"""Which queries are asked most: counted in the cache, an hour at a time."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from app.switchyard.cache.cache import Cache, key
from app.switchyard.cache.client import CacheUnavailable

HOURS = 24
_KEPT_SECONDS = (HOURS + 1) * 3600
_COUNT = """
redis.call('ZINCRBY', KEYS[1], 1, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_TOP = """
local names, top = redis.call('ZUNION', #KEYS, unpack(KEYS)), {}
for i = #names, math.max(1, #names - ARGV[1] + 1), -1 do top[#top + 1] = names[i] end
return top
"""


def count(cache: Cache, name: str, now: datetime) -> None:
    """Count one use of the query `name`; not where the cache is unavailable."""
    with suppress(CacheUnavailable):
        cache.script(_COUNT, [_hour(now)], name, _KEPT_SECONDS)


def top(cache: Cache, number: int, now: datetime) -> list[str]:
    """The `number` queries asked most in the last 24 hours, most first. Raises CacheUnavailable."""
    hours = [_hour(now - timedelta(hours=ago)) for ago in range(HOURS)]
    return list(cache.script(_TOP, hours, number))


def _hour(moment: datetime) -> str:
    return key("popular", f"{moment:%Y-%m-%dT%H}")

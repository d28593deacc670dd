"""Limits how often something may be done, over all processes together, in a sliding window."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple
from uuid import uuid4

from app.switchyard.cache.cache import Cache, key, milliseconds
from app.switchyard.cache.client import RETRY_SECONDS, CacheUnavailable
from app.switchyard.errors import BadInput

MAX_LIMIT = 10_000
"""The highest limit. Each call that is allowed is remembered for a window."""
# It uses the cache's own clock, in microseconds, since the callers' clocks differ.
_ALLOW = """
local time = redis.call('TIME')
local now, window, limit = time[1] * 1000000 + time[2], ARGV[1] * 1000, tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local used = redis.call('ZCARD', KEYS[1])
if used >= limit then
  local next = redis.call('ZRANGE', KEYS[1], used - limit, used - limit, 'WITHSCORES')
  return math.max(1, next[2] + window - now)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
"""


class IfUnavailable(StrEnum):
    """What to do while the cache is unavailable."""

    OPEN = "open"
    """Allow everything: serving the caller matters more than the limit."""
    CLOSED = "closed"
    """Refuse everything: what the limit guards must not be done too often."""


class Verdict(NamedTuple):
    """Whether it may be done now, or else after how many seconds at the earliest."""

    allowed: bool
    retry_after: float = 0.0


def allow(
    cache: Cache, name: str, limit: int, window_seconds: float, *, if_unavailable: IfUnavailable
) -> Verdict:
    """Allow something at most `limit` times in any `window_seconds`. Only allowed calls count.

    Raises BadInput unless the limit is 1 to 10,000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise BadInput(f"limit: must be 1 to {MAX_LIMIT}")
    args = milliseconds(window_seconds), limit, uuid4().hex
    try:
        wait = int(cache.script(_ALLOW, [key("limit", name)], *args))
    except CacheUnavailable:
        opened = if_unavailable is IfUnavailable.OPEN
        return Verdict(opened, 0.0 if opened else RETRY_SECONDS)
    return Verdict(wait == 0, wait / 1_000_000)

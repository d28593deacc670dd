"""Locks over all processes, for work that should not be done twice. No money relies on them.

A lock expires, so after a pause or a slow call its holder may continue without noticing that
somebody else has the lock. Work that must be right even then takes the lock's `fence` and refuses
one lower than it has seen
(https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.switchyard.cache.cache import Cache, key, milliseconds

_FENCE = "switchyard:fence"
# At least the time in microseconds, so that a cache that lost its counter does not restart at 1.
_ACQUIRE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local fence = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
redis.call('SET', KEYS[2], fence)
redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
return fence
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that was taken. It may have expired since."""

    cache: Cache
    name: str
    fence: int
    """It is higher than that of every lock taken before, under any name."""

    def release(self) -> bool:
        """Release it. False where it had expired and may be another's. Raises CacheUnavailable."""
        return bool(self.cache.script(_RELEASE, [key("lock", self.name)], self.fence))


def acquire_lock(cache: Cache, name: str, seconds: float) -> Lock | None:
    """The lock `name` for `seconds`, or None where another has it. Raises CacheUnavailable.

    Nothing that moves money relies on it: the ledger, in SQL, keeps money safe.
    """
    fence = cache.script(_ACQUIRE, [key("lock", name), _FENCE], milliseconds(seconds))
    return None if fence is None else Lock(cache, name, int(fence))

"""Locks over all processes, for work that is better not done twice: no money relies on them.

A lock ends by itself, so its holder may go on without knowing that another one has it by then (a
pause, a slow call). What must be right all the same takes the lock's `fence` and refuses a lower
one than it has seen (https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.switchyard.cache.cache import Cache, key, milliseconds

_FENCE = "switchyard:fence"
# Not below the time in microseconds: so a cache that lost its counter does not begin again at 1.
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
    """A lock that was taken; it may have ended since."""

    cache: Cache
    name: str
    fence: int
    """Higher than that of every lock taken before, of any name."""

    def release(self) -> bool:
        """Let it go; False where it had ended, and may be another's. Raises CacheUnavailable."""
        return bool(self.cache.script(_RELEASE, [key("lock", self.name)], self.fence))


def acquire_lock(cache: Cache, name: str, seconds: float) -> Lock | None:
    """The lock `name` for `seconds`, or None where another has it. Raises CacheUnavailable.

    Nothing that moves money relies on it: that is the ledger's, in SQL.
    """
    fence = cache.script(_ACQUIRE, [key("lock", name), _FENCE], milliseconds(seconds))
    return None if fence is None else Lock(cache, name, int(fence))

"""How often a wrong ADMIN_TOKEN was tried: over all processes, and by each without a cache."""

from __future__ import annotations

import threading
import time
from collections import deque
from hashlib import blake2b

from app.switchyard.cache.cache import Cache
from app.switchyard.cache.limits import IfUnavailable, allow

TRIES, TRIES_SECONDS = 20, 300
REMEMBERED = 1000
"""Of how many names and clients a process knows the tries by itself."""


class Tries:
    """Logins by client, by the name given, and by both together.

    Only the last count is of one person's, and refuses whatever they send. The other two are of
    others' as well: beyond them wrong tokens are refused as too many, and the right one is right.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._own: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def one_more(self, *of: str) -> bool:
        """Count a try of these; False where they had TRIES within TRIES_SECONDS."""
        name = blake2b("\n".join(of).encode(), digest_size=16).hexdigest()
        return self._by_process(name) and self._by_all(name)

    def _by_process(self, name: str) -> bool:
        with self._lock:
            now = time.monotonic()
            tries = self._own.pop(name, deque(maxlen=TRIES))
            if len(self._own) >= REMEMBERED:
                del self._own[next(iter(self._own))]
            self._own[name] = tries
            if len(tries) == TRIES and now - tries[0] < TRIES_SECONDS:
                return False
            tries.append(now)
        return True

    def _by_all(self, name: str) -> bool:
        limit = f"console-login:{name}"
        return allow(
            self._cache, limit, TRIES, TRIES_SECONDS, if_unavailable=IfUnavailable.OPEN
        ).allowed

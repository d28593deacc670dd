"""How often each function was enqueued by an old call site, and where it went: for `inventory`.

Counted in the process and written to Redis at most every FLUSH_SECONDS, so that an enqueue waits
for no round trip of its own. A process that is killed loses what it counted since.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

KEY = "switchyard:call-sites"
"""A hash: `["function", "rq" or "dispatched", "why"]` to how often."""
FLUSH_SECONDS = 5.0
_MOST = 1000
_OTHERS = "(others)"


class CallSites:
    """The counts of one process that are not in Redis yet."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._flush_at = 0.0

    def note(self, function: str, went: str, why: str) -> None:
        """Count one call."""
        field = json.dumps([function, went, why])
        with self._lock:
            if field not in self._counts and len(self._counts) >= _MOST:
                field = json.dumps([_OTHERS, went, ""])
            self._counts[field] += 1

    def flush(self, redis: Redis) -> None:
        """Write the counts, if it is time; a Redis that fails costs the counts and nothing else."""
        if time.monotonic() < self._flush_at:
            return
        with self._lock:
            self._flush_at = time.monotonic() + FLUSH_SECONDS
            counts, self._counts = self._counts, Counter()
        try:
            with redis.pipeline(transaction=False) as pipe:
                for field, count in counts.items():
                    pipe.hincrby(KEY, field, count)
                pipe.execute()
        except RedisError as failure:
            log.warning("call sites not counted", extra={"reason": type(failure).__name__})

    def forget(self) -> None:
        """Begin anew: a forked child has its parent's counts, which the parent writes."""
        self._lock = threading.Lock()
        self._counts = Counter()


call_sites = CallSites()
os.register_at_fork(after_in_child=call_sites.forget)


def counted(redis: Redis, most: int = 10_000) -> list[dict[str, Any]]:
    """What was counted so far, the most frequent first."""
    found = []
    for field, count in redis.hscan_iter(KEY, count=500):
        function, went, why = json.loads(field)
        found.append({"function": function, "went": went, "why": why, "count": int(count)})
        if len(found) >= most:
            break
    return sorted(found, key=lambda row: (-row["count"], row["function"]))

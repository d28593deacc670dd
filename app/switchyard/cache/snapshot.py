"""The stages as last read, kept in the cache for a process that starts without a database.

An older reading never replaces a newer one, one that is not refreshed expires after
MAX_AGE_SECONDS, and only a process that has no answer of its own reads it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b

from pydantic import TypeAdapter
from sqlalchemy import URL

from app.switchyard.cache.cache import Cache, key
from app.switchyard.cache.client import CacheUnavailable
from app.switchyard.db import canonical_json
from flags import StageRow

MAX_AGE_SECONDS = 600
_KEEP = """
local last = redis.call('HGET', KEYS[1], 'version')
if last and tonumber(last) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'rows', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
_ROWS = TypeAdapter(list[StageRow])
_READ = "return redis.call('HGET', KEYS[1], 'rows')"


class StageSnapshot:
    """The snapshot of the stages in one database."""

    def __init__(self, cache: Cache, database: URL) -> None:
        # Another environment on the same cache has its own stages.
        which = database.render_as_string(hide_password=True)
        self._cache = cache
        self._key = key("stages", blake2b(which.encode(), digest_size=8).hexdigest())
        self._kept, self._keep_again = "", 0.0

    def keep(self, rows: Sequence[StageRow]) -> Sequence[StageRow]:
        """Keep `rows` if they are new or half their time is over. Returns them."""
        text, now = canonical_json(sorted(rows)), time.monotonic()
        if text != self._kept or now >= self._keep_again:
            version = max((row.version for row in rows), default=0)
            with suppress(CacheUnavailable):
                self._cache.script(_KEEP, [self._key], version, text, MAX_AGE_SECONDS)
                self._kept, self._keep_again = text, now + MAX_AGE_SECONDS / 2
        return rows

    def read(self) -> list[StageRow]:
        """The rows that were kept, or none."""
        try:
            text = self._cache.script(_READ, [self._key])
            rows = _ROWS.validate_json(text or "[]")
            return [row._replace(pins=tuple(row.pins)) for row in rows]
        except (CacheUnavailable, ValueError):  # the latter for another version's rows
            return []

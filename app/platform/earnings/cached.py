"""Cached data: creators' profiles, and the top creators, whose popular queries are kept warm.

Amounts are in minor units, days in UTC.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from sqlalchemy import BigInteger, cast, func, select

from app.platform.earnings.models import Creator
from app.platform.earnings.models import DailyEarnings as D
from app.switchyard.cache.cache import Cache, key
from app.switchyard.cache.client import CacheUnavailable
from app.switchyard.db import Database

TTL_SECONDS = 75 * 60
"""With this, the early refresh begins after an hour, once the hourly warming was due."""
WARMED, HOURS = 20, 24
"""How many of the most frequent queries are kept warm, and over how many hours they are counted."""
_COUNT = """
redis.call('ZINCRBY', KEYS[1], 1, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_TOP = """
local names, top = redis.call('ZUNION', #KEYS, unpack(KEYS)), {}
for i = #names, math.max(1, #names - ARGV[1] + 1), -1 do top[#top + 1] = names[i] end
return top
"""


@dataclass(frozen=True)
class TopCreators:
    """Query for who earned most in the `days` whole days before today. Raises ValueError."""

    days: Annotated[int, Field(ge=1, le=365)]
    limit: Annotated[int, Field(ge=1, le=100)]
    currency: Annotated[str, Field(pattern=r"^[a-z]{3}$")]

    def ask(self, cache: Cache, db: Database, now: datetime) -> Any:
        """The answer through the cache. The query is counted for the hourly warming."""
        query, seconds = QUERY.dump_json(self).decode(), (HOURS + 1) * 3600
        with suppress(CacheUnavailable):
            cache.script(_COUNT, [_hour(now)], query, seconds)
        return self.cached(cache, db, now)

    def cached(self, cache: Cache, db: Database, now: datetime, *, refresh: bool = False) -> Any:
        """The answer from the cache, computed if it is missing or to be refreshed."""
        name = f"analytics:top-creators:{self.days}d:{self.limit}:{self.currency}"
        answer = partial(self.answer, db, now)
        return cache.get_or_compute(name, answer, TTL_SECONDS, refresh=refresh)

    def answer(self, db: Database, now: datetime) -> dict[str, Any]:
        """The answer as JSON, from the database."""
        first, last = now.date() - timedelta(days=self.days), now.date() - timedelta(days=1)
        # Postgres returns a decimal for the sum.
        net = cast(func.sum(D.net), BigInteger)
        listed = (
            select(D.creator_id.label("creatorId"), Creator.name, net.label("net"))
            .join(Creator, Creator.id == D.creator_id)
            .where(D.day.between(first, last), D.currency == self.currency)
            .group_by(D.creator_id, Creator.name)
            .order_by(net.desc(), D.creator_id)
            .limit(self.limit)
        )
        return {
            "from": first.isoformat(),
            "to": last.isoformat(),
            "currency": self.currency,
            "creators": [dict(one._mapping) for one in db.rows(listed)],
        }


QUERY = TypeAdapter(TopCreators)
"""Reads and writes the JSON form in which queries are counted."""


def most_asked(cache: Cache, now: datetime) -> list[str]:
    """The most frequent queries in the last HOURS, in order. Raises CacheUnavailable."""
    hours = [_hour(now - timedelta(hours=ago)) for ago in range(HOURS)]
    return list(cache.script(_TOP, hours, WARMED))


def _hour(moment: datetime) -> str:
    return key("popular", f"{moment:%Y-%m-%dT%H}")


def cache_creator_profile(cache: Cache, creator_id: str, profile: Any, ttl: float = 300) -> bool:
    """Cache a creator's profile for `ttl` seconds. Returns whether it was stored."""
    return cache.put(_profile(creator_id), profile, ttl)


def creator_profile(cache: Cache, creator_id: str) -> Any:
    """The creator's profile, or None."""
    return cache.get(_profile(creator_id))


def invalidate_creator_profile(cache: Cache, creator_id: str) -> bool:
    """Delete the creator's profile from the cache; see Cache.delete."""
    return cache.delete(_profile(creator_id))


def _profile(creator_id: str) -> str:
    return f"creator_profile:{creator_id}"

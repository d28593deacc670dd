"""Who earned most: asked through the cache, and counted, so that what is asked most is kept warm.

Amounts are minor units, days UTC.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, cast, func, select

from app.platform.earnings.models import Creator
from app.platform.earnings.models import DailyEarnings as D
from app.switchyard.cache.cache import Cache, key
from app.switchyard.cache.client import CacheUnavailable
from app.switchyard.db import Database
from app.switchyard.errors import BadInput

TTL_SECONDS = 75 * 60
"""The early refresh then begins after an hour, when the hourly warming was due."""
MAX_DAYS, MAX_LIMIT = 365, 100
WARMED, HOURS = 20, 24
"""As many queries are kept warm, by how often they were asked in so many hours."""
_NAME = re.compile(r"top-creators:([0-9]{1,3})d:([0-9]{1,3}):([a-z]{3})")
_COUNT = """
redis.call('ZINCRBY', KEYS[1], 1, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_TOP = """
local names, top = redis.call('ZUNION', #KEYS, unpack(KEYS)), {}
for i = #names, math.max(1, #names - ARGV[1] + 1), -1 do top[#top + 1] = names[i] end
return top
"""


@dataclass(frozen=True, slots=True)
class TopCreators:
    """Who earned most in the `days` whole days before today. Raises BadInput."""

    days: int
    limit: int
    currency: str

    def __post_init__(self) -> None:
        if not (1 <= self.days <= MAX_DAYS and 1 <= self.limit <= MAX_LIMIT):
            raise BadInput(f"days must be 1 to {MAX_DAYS}, limit 1 to {MAX_LIMIT}")
        if not _NAME.fullmatch(self.name):
            raise BadInput("currency must be three small letters")

    @classmethod
    def named(cls, name: str) -> TopCreators:
        """The query of this `name`. Raises BadInput."""
        if not (parts := _NAME.fullmatch(name)):
            raise BadInput(f"no query {name!r}")
        return cls(int(parts[1]), int(parts[2]), parts[3])

    @property
    def name(self) -> str:
        """What it is cached and counted by."""
        return f"top-creators:{self.days}d:{self.limit}:{self.currency}"

    def ask(self, cache: Cache, db: Database, now: datetime) -> Any:
        """The answer through the cache; that it was asked is counted, for the hourly warming."""
        count(cache, self.name, now)
        return self.cached(cache, db, now)

    def cached(self, cache: Cache, db: Database, now: datetime, *, refresh: bool = False) -> Any:
        """The answer from the cache, computed if need be, or to refresh it."""
        name, answer = f"analytics:{self.name}", partial(self.answer, db, now)
        return cache.get_or_compute(name, answer, TTL_SECONDS, refresh=refresh)

    def answer(self, db: Database, now: datetime) -> dict[str, Any]:
        """The answer as JSON, from the database."""
        first, last = now.date() - timedelta(days=self.days), now.date() - timedelta(days=1)
        # Postgres adds up to a decimal.
        net = cast(func.sum(D.net), BigInteger)
        listed = (
            select(D.creator_id, Creator.name, net.label("net"))
            .join(Creator, Creator.id == D.creator_id)
            .where(D.day.between(first, last), D.currency == self.currency)
            .group_by(D.creator_id, Creator.name)
            .order_by(net.desc(), D.creator_id)
            .limit(self.limit)
        )
        with db.autocommit() as connection:
            top = connection.execute(listed).all()
        return {
            "from": first.isoformat(),
            "to": last.isoformat(),
            "currency": self.currency,
            "creators": [
                {"creatorId": one.creator_id, "name": one.name, "net": one.net} for one in top
            ],
        }


def count(cache: Cache, name: str, now: datetime) -> None:
    """Count one use of the query `name`; not where the cache is unavailable."""
    with suppress(CacheUnavailable):
        cache.script(_COUNT, [_hour(now)], name, (HOURS + 1) * 3600)


def most_asked(cache: Cache, now: datetime) -> list[str]:
    """The queries asked most in the last HOURS, most first. Raises CacheUnavailable."""
    hours = [_hour(now - timedelta(hours=ago)) for ago in range(HOURS)]
    return list(cache.script(_TOP, hours, WARMED))


def _hour(moment: datetime) -> str:
    return key("popular", f"{moment:%Y-%m-%dT%H}")

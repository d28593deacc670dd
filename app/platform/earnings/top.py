"""Who earned most, from the rolled up earnings. Amounts are minor units, days UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, func, select

from app.platform.earnings import popular
from app.platform.earnings.models import Creator
from app.platform.earnings.rollup_models import DailyEarnings, PlatformDay
from app.switchyard.cache.cache import Cache
from app.switchyard.db import Database
from app.switchyard.errors import BadInput

TTL_SECONDS = 75 * 60
"""The early refresh then begins after an hour, when the hourly warming was due."""
MAX_DAYS, MAX_LIMIT = 365, 100
_SUMS = {"gross": "gross", "refunds": "refunds", "fees": "fees", "net": "net", "sales": "count"}


@dataclass(frozen=True, slots=True)
class TopCreators:
    """Who earned most in the `days` whole days before today."""

    days: int
    limit: int
    currency: str

    @classmethod
    def of(cls, window: str, limit: str, currency: str) -> TopCreators:
        """The query these words ask for. Raises BadInput."""
        days = _whole("window", window, MAX_DAYS, "d")
        most = _whole("limit", limit, MAX_LIMIT)
        if not re.fullmatch(r"[a-z]{3}", currency):
            raise BadInput("currency: must be three small letters")
        return cls(days, most, currency)

    @classmethod
    def named(cls, name: str) -> TopCreators:
        """The query of this `name`. Raises BadInput."""
        kind, *words = name.split(":")
        if kind != "top-creators" or len(words) != 3:
            raise BadInput(f"no query {name!r}")
        return cls.of(*words)

    @property
    def name(self) -> str:
        """What it is cached and counted by."""
        return f"top-creators:{self.days}d:{self.limit}:{self.currency}"

    def ask(self, cache: Cache, db: Database, now: datetime) -> Any:
        """The answer through the cache; that it was asked is counted, for the hourly warming."""
        popular.count(cache, self.name, now)
        return self.cached(cache, db, now)

    def cached(self, cache: Cache, db: Database, now: datetime, *, refresh: bool = False) -> Any:
        """The answer from the cache, computed if need be, or to refresh it."""
        name, answer = f"analytics:{self.name}", partial(self.answer, db, now)
        return cache.get_or_compute(name, answer, TTL_SECONDS, refresh=refresh)

    def answer(self, db: Database, now: datetime) -> dict[str, Any]:
        """The answer as JSON, from the database."""
        first, last = now.date() - timedelta(days=self.days), now.date() - timedelta(days=1)
        D, P = DailyEarnings, PlatformDay
        earned = (
            select(D.creator_id, *_sums(D))
            .where(D.day.between(first, last), D.currency == self.currency)
            .group_by(D.creator_id)
            .order_by(func.sum(D.net).desc(), D.creator_id)
            .limit(self.limit)
            .subquery()
        )
        listed = select(Creator.name, earned).join(earned, Creator.id == earned.c.creator_id)
        listed = listed.order_by(earned.c.net.desc(), earned.c.creator_id)
        total = select(*_sums(P)).where(P.day.between(first, last), P.currency == self.currency)
        with db.autocommit() as connection:
            top = connection.execute(listed).mappings().all()
            platform = connection.execute(total).mappings().one()
        return {
            "window": f"{self.days}d",
            "from": first.isoformat(),
            "to": last.isoformat(),
            "currency": self.currency,
            "platform": _amounts(platform),
            "creators": [
                {"creatorId": one["creator_id"], "name": one["name"], **_amounts(one)}
                for one in top
            ],
        }


def _whole(what: str, text: str, most: int, unit: str = "") -> int:
    found = re.fullmatch(rf"([0-9]{{1,3}}){unit}", text)
    if found is None or not 1 <= int(found[1]) <= most:
        raise BadInput(f"{what}: must be 1{unit} to {most}{unit}")
    return int(found[1])


def _sums(table: type[DailyEarnings] | type[PlatformDay]) -> list[ColumnElement[Any]]:
    return [func.sum(getattr(table, column)).label(name) for name, column in _SUMS.items()]


def _amounts(row: Any) -> dict[str, int]:
    # Postgres adds up to a decimal, and both add up nothing to NULL.
    return {name: int(row[name] or 0) for name in _SUMS}

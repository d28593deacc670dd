"""Who earned most, and the job that keeps the answers warm."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import insert, update

from app.platform.earnings import cached
from app.platform.earnings.cached import (
    TopCreators,
    cache_creator_profile,
    creator_profile,
    invalidate_creator_profile,
)
from app.platform.earnings.models import daily
from app.switchyard.dispatch import dispatch
from tests.support.site import START, Site

TODAY = START.date()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url, decode_responses=True) as made:
        made.flushdb()
        yield made


@pytest.fixture
def site(tmp_path: Path, redis_url: str, raw: Any) -> Iterator[Site]:
    made = Site(f"sqlite:///{tmp_path / 'test.db'}", redis_url=redis_url)
    patient(made)
    made.creator("cat")
    earned(made, "ana", 1, 900)
    earned(made, "ana", 3, 300, source="calls")
    earned(made, "bob", 30, 1500)
    earned(made, "cat", 31, 7000)
    earned(made, "cat", 0, 9000)
    earned(made, "cat", 2, 800, currency="eur")
    yield made
    made.db.dispose()


def patient(site: Site) -> None:
    site.runtime.cache._breaker._seconds = 30.0  # a busy machine is no outage


def earned(
    site: Site, creator: str, days_ago: int, net: int, source: str = "tips", currency: str = "usd"
) -> None:
    row: dict[str, Any] = {
        "day": TODAY - timedelta(days=days_ago),
        "currency": currency,
        "source": source,
        "gross": net + 130,
        "refunds": 30,
        "fees": 100,
        "net": net,
        "count": 2,
    }
    with site.db.begin() as tx:
        tx.execute(insert(daily).values(creator_id=creator, **row))


def ask(site: Site, days: int = 30, limit: int = 10, currency: str = "usd") -> Any:
    return TopCreators(days, limit, currency).ask(site.runtime.cache, site.db, START)


def changed(site: Site) -> None:
    with site.db.begin() as tx:
        tx.execute(update(daily).values(net=daily.c.net + 1))


def names(answer: Any) -> list[tuple[str, int]]:
    return [(one["creatorId"], one["net"]) for one in answer["creators"]]


def test_who_earned_most_in_the_whole_days_before_today(site: Site) -> None:
    body = ask(site)
    assert names(body) == [("bob", 1500), ("ana", 1200)]
    assert body["creators"][1] == {"creatorId": "ana", "name": "Ana", "net": 1200}
    assert (body["from"], body["to"], body["currency"]) == ("2025-02-02", "2025-03-03", "usd")
    assert names(ask(site, 31, 1)) == [("cat", 7000)]
    assert names(ask(site, 1)) == [("ana", 900)]
    assert names(ask(site, currency="eur")) == [("cat", 800)]
    assert names(ask(site, 365, currency="jpy")) == []
    earned(site, "cat", 4, 1500)
    assert names(ask(site, limit=9)) == [("bob", 1500), ("cat", 1500), ("ana", 1200)]


def warm(site: Site, key: str) -> Any:
    run = dispatch("warm-analytics-cache", key=key)
    site.work()
    return site.run(run.id)


def test_the_job_recomputes_the_queries_asked_most(site: Site, raw: Any) -> None:
    for days in range(1, 23):
        for _ in range(2 if days < 21 else 1):
            ask(site, days)
    # Twice and more are twenty; two more were asked once.
    row = warm(site, "cold")
    assert (row.status, row.result) == ("succeeded", '{"asked":20,"warmed":20}')
    changed(site)
    warm(site, "warm")
    assert names(ask(site, 1)) == [("ana", 901)]
    assert names(ask(site, 22)) == [("ana", 1200)]


def test_a_query_is_counted_as_all_that_it_is() -> None:
    for query in (TopCreators(1, 1, "usd"), TopCreators(365, 100, "jpy")):
        assert cached.QUERY.validate_json(cached.QUERY.dump_json(query)) == query
    for wrong in ((0, 1, "usd"), (366, 1, "usd"), (1, 0, "usd"), (1, 101, "usd"), (1, 1, "USD")):
        with pytest.raises(ValueError, match="TopCreators"):
            TopCreators(*wrong)


def test_a_creator_s_profile_is_kept_for_five_minutes(site: Site, raw: Any) -> None:
    cache, profile = site.runtime.cache, {"name": "Ana", "tiers": [1, 2]}
    assert cache_creator_profile(cache, "ana", profile)
    assert creator_profile(cache, "ana") == profile
    assert 200_000 < raw.pttl("switchyard:value:creator_profile:ana") <= 300_000
    assert invalidate_creator_profile(cache, "ana")
    assert creator_profile(cache, "ana") is None

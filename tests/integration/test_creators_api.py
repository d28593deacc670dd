"""/api/creators: what a creator earned and their statements, for whom, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pydantic import SecretStr
from sqlalchemy import insert, update

from app.platform.earnings.models import Creator
from app.platform.earnings.rollup_models import daily, lifetime, monthly
from app.platform.gateways.storage import Storage
from app.platform.statements import creator_pages as creators
from app.platform.statements.models import Statement
from app.switchyard import web
from app.switchyard.web.auth import creator_token
from tests.support.cached import Kit, connecting
from tests.support.site import START, Site, lite, refused

__all__ = ["lite"]  # a fixture: used by its name
ADMIN = "an-admin-token-of-32-characters!"
SECRET = "0123456789abcdef-secret"
EARNINGS, STATEMENTS = "/api/creators/ana/earnings", "/api/creators/ana/statements"
WINDOW = "from=2025-01-01&to=2025-01-31"


def sums(gross: int, refunds: int = 0, fees: int = 0, count: int = 1) -> dict[str, int]:
    net = gross - refunds - fees
    return {"gross": gross, "refunds": refunds, "fees": fees, "net": net, "count": count}


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(
        database_url,
        secret_key=SecretStr(SECRET),
        admin_token=SecretStr(ADMIN),
        storage_url=(tmp_path / "storage").as_uri(),
    )
    yield made
    made.db.dispose()


def earned(site: Site, *rows: tuple[str, str, str, dict[str, int]], creator: str = "ana") -> None:
    with site.db.begin() as tx:
        for day, currency, source, figures in rows:
            same = {"creator_id": creator, "currency": currency, "source": source, **figures}
            tx.execute(insert(daily).values(day=date.fromisoformat(day), **same))


def get(site: Site, url: str, token: str | None = "ana", **headers: str) -> Any:
    if token == "admin":
        headers["Authorization"] = f"Bearer {ADMIN}"
    elif token is not None:
        headers["Authorization"] = f"Bearer {creator_token(site.settings, token)}"
    return site.app.test_client().get(url, headers=headers)


def shown(figures: dict[str, int]) -> dict[str, int]:
    return {("sales" if name == "count" else name): n for name, n in figures.items()}


def test_earnings_by_source_day_and_month(site: Site) -> None:
    earned(
        site,
        ("2024-12-31", "usd", "tips", sums(9_000)),
        ("2025-01-01", "usd", "tips", sums(1_000, 100, 200)),
        ("2025-01-01", "usd", "calls", sums(500, 0, 100)),
        ("2025-01-01", "eur", "tips", sums(70)),
        ("2025-01-31", "usd", "tips", sums(0, 300, -60, 0)),
        ("2025-02-01", "usd", "tips", sums(8_000)),
    )
    earned(site, ("2025-01-01", "usd", "tips", sums(7)), creator="bob")
    with site.db.begin() as tx:
        for month, source, n in (("01", "tips", 5), ("01", "calls", 6), ("02", "tips", 7)):
            key = {"month": date.fromisoformat(f"2025-{month}-01"), "creator_id": "ana"}
            tx.execute(insert(monthly).values(currency="usd", source=source, **key, **sums(n)))
    by_source = get(site, f"{EARNINGS}?{WINDOW}")
    assert by_source.json == {
        "creator": "ana",
        "from": "2025-01-01",
        "to": "2025-01-31",
        "by": "source",
        "earnings": [
            {"currency": "eur", "source": "tips", **shown(sums(70))},
            {"currency": "usd", "source": "calls", **shown(sums(500, 0, 100))},
            {"currency": "usd", "source": "tips", **shown(sums(1_000, 400, 140))},
        ],
        "after": None,
    }
    assert get(site, f"{EARNINGS}?{WINDOW}&by=day").json["earnings"] == [
        {"day": "2025-01-01", "currency": "eur", **shown(sums(70))},
        {"day": "2025-01-01", "currency": "usd", **shown(sums(1_500, 100, 300, 2))},
        {"day": "2025-01-31", "currency": "usd", **shown(sums(0, 300, -60, 0))},
    ]
    found = get(site, f"{EARNINGS}?from=2025-01-01&to=2025-02-28&by=month").json["earnings"]
    assert found == [
        {"month": "2025-01-01", "currency": "usd", **shown(sums(11, count=2))},
        {"month": "2025-02-01", "currency": "usd", **shown(sums(7))},
    ]
    assert get(site, f"{EARNINGS}?from=2023-01-01&to=2023-12-31").json["earnings"] == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 366])
def test_days_page_by_page(site: Site, limit: int) -> None:
    days = [(date(2025, 1, 1) + timedelta(days=n)).isoformat() for n in range(0, 30, 3)]
    earned(site, *((day, code, "tips", sums(5)) for day in days for code in ("usd", "eur")))
    whole = get(site, f"{EARNINGS}?{WINDOW}&by=day").json["earnings"]
    assert len(whole) == 20
    seen, after = [], ""
    while after is not None:
        page = get(
            site, f"{EARNINGS}?{WINDOW}&by=day&limit={limit}{after and '&after='}{after}"
        ).json
        assert 0 < len(page["earnings"]) <= limit
        seen += page["earnings"]
        after = page["after"]
    assert seen == whole


def test_what_did_not_change_is_not_sent_again(site: Site) -> None:
    url = f"{EARNINGS}?{WINDOW}"
    first = get(site, url)
    assert first.headers["Cache-Control"] == "private, no-cache"
    again = get(site, url, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    earned(site, ("2025-01-02", "usd", "tips", sums(5)))
    assert get(site, url, **{"If-None-Match": first.headers["ETag"]}).status_code == 200


BAD = {
    "from=2025-01-01": "to: must be a day",
    "to=2025-01-01": "from: must be a day",
    "from=&to=2025-01-01": "from: must be a day",
    "from=2025-02-30&to=2025-03-01": "from: must be a day",
    "from=2025-1-1&to=2025-03-01": "from: must be a day",
    "from=20250101&to=2025-03-01": "from: must be a day",
    "from=2025-01-01T00:00:00Z&to=2025-03-01": "from: must be a day",
    "from=2025-W01-1&to=2025-03-01": "from: must be a day",
    "from=%D9%A2025-01-01&to=2025-03-01": "from: must be a day",
    "from=2025-01-01%00&to=2025-03-01": "from: must be a day",
    "from=2025-03-02&to=2025-03-01": "must not be after",
    f"{WINDOW}&by=week": "by: must be source, day or month",
    f"{WINDOW}&by=": "by: must be source, day or month",
    f"{WINDOW}&by=day'--": "by: must be source, day or month",
    "from=2024-01-01&to=2025-01-01&by=day": "at most 366 days",
    "from=2015-01-01&to=2025-12-31&by=month": "at most 10 years",
    "from=2015-01-01&to=2025-12-31": "at most 10 years",
    "from=0001-01-01&to=9999-12-31": "at most 10 years",
    "from=2025-01-02&to=2025-01-31&by=month": "first day",
    "from=2025-01-01&to=2025-01-30&by=month": "a month's last",
    f"{WINDOW}&by=day&limit=0": "limit: must be 1 to",
    f"{WINDOW}&by=day&limit=367": "limit: must be 1 to",
    f"{WINDOW}&by=day&limit=-1": "limit: must be 1 to",
    f"{WINDOW}&by=day&limit=x": "limit: must be 1 to",
    f"{WINDOW}&by=day&after=2025-01-01": "after: must be",
    f"{WINDOW}&by=day&after=2025-13-01:usd": "after: must be",
    f"{WINDOW}&by=day&after=x": "after: must be",
}


@pytest.mark.parametrize(("query", "says"), BAD.items())
def test_questions_that_make_no_sense(site: Site, query: str, says: str) -> None:
    refused(get(site, f"{EARNINGS}?{query}"), 422, says)


@pytest.mark.parametrize(
    "query",
    [
        *("from=2024-01-01&to=2024-12-31&by=day", "from=2025-01-01&to=2025-01-01&by=day"),
        *("from=2015-01-01&to=2024-12-31&by=month", "from=9999-12-01&to=9999-12-31&by=month"),
        *("from=2024-02-01&to=2024-02-29&by=month", "from=0001-01-01&to=0001-01-31"),
    ],
)
def test_questions_at_the_edge(site: Site, query: str) -> None:
    assert get(site, f"{EARNINGS}?{query}").status_code == 200


# Statements


def make(site: Site, *months: str, creator: str = "ana") -> None:
    for month in months:
        told = site.app.test_cli_runner().invoke(
            args=["statements", "make", month, "--creator", creator]
        )
        assert told.exit_code == 0, told.output


def test_the_list_newest_first_page_by_page(site: Site) -> None:
    assert get(site, STATEMENTS).json == {"statements": [], "after": None}
    make(site, "2025-01", "2024-12", "2025-02")
    make(site, "2025-01", creator="bob")
    found = get(site, STATEMENTS).json
    assert [one["month"] for one in found["statements"]] == ["2025-02", "2025-01", "2024-12"]
    assert found["after"] is None
    assert found["statements"][2] == {
        "id": "ana:2024-12",
        "month": "2024-12",
        "version": 1,
        "madeAt": "2025-03-04T12:00:00.000Z",
        "pdf": f"{STATEMENTS}/2024-12.pdf",
        "csv": f"{STATEMENTS}/2024-12.csv",
    }
    first = get(site, f"{STATEMENTS}?limit=2").json
    assert first["after"] == "2025-01"
    second = get(site, f"{STATEMENTS}?limit=2&after={first['after']}").json
    assert [*first["statements"], *second["statements"]] == found["statements"]
    assert second["after"] is None
    tag = get(site, STATEMENTS).headers["ETag"]
    assert get(site, STATEMENTS, **{"If-None-Match": tag}).status_code == 304
    for wrong in ("after=x", "after=2025-13", "after=2025-01-01", "limit=0", "limit=1e1"):
        refused(get(site, f"{STATEMENTS}?{wrong}"), 422)


@pytest.mark.parametrize(
    ("kind", "content_type"), [("pdf", "application/pdf"), ("csv", "text/csv; charset=utf-8")]
)
def test_downloads(site: Site, kind: str, content_type: str) -> None:
    make(site, "2024-12")
    url = f"{STATEMENTS}/2024-12.{kind}"
    got = get(site, url)
    assert (got.status_code, got.content_type) == (200, content_type)
    assert got.headers["Content-Disposition"] == (
        f'attachment; filename="statement-ana-2024-12.{kind}"'
    )
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["ETag"] == f'"{sha256(got.data).hexdigest()[:32]}"'
    again = get(site, url, **{"If-None-Match": got.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert got.data.startswith(b"%PDF-" if kind == "pdf" else b"date,currency,")


@pytest.mark.parametrize(
    "name",
    [
        *("2025-01.pdf", "2025-13.pdf", "2025-00.pdf", "2025-01", "2025-1.pdf", "2024-12.exe"),
        *(
            "2024-12.PDF",
            "2024-12.pdf%00",
            "..%2f..%2fx.pdf",
            "%2e%2e",
            "2024-12.pdf%0a",
            "0000-00.csv",
        ),
    ],
)
def test_statements_that_are_not_there(site: Site, name: str) -> None:
    make(site, "2024-12")
    refused(get(site, f"{STATEMENTS}/{name}"), 404)


def test_a_file_that_is_lost_and_a_storage_that_is_away(site: Site, tmp_path: Path) -> None:
    make(site, "2024-12")
    storage = site.made.engine.gateways.storage
    assert isinstance(storage, Storage)
    with site.db.autocommit() as connection:
        path = connection.execute(Statement.__table__.select()).one().pdf_path
    storage.delete(path)
    refused(get(site, f"{STATEMENTS}/2024-12.pdf"), 404, "no file")
    (tmp_path / "storage" / path).mkdir()
    refused(get(site, f"{STATEMENTS}/2024-12.pdf"), 404)
    assert get(site, f"{STATEMENTS}/2024-12.csv").status_code == 200


# Who may read

ROUTES = [f"/earnings?{WINDOW}", "/statements", "/statements/2024-12.pdf"]


@pytest.mark.parametrize("route", ROUTES)
def test_who_may_read_whose(site: Site, route: str) -> None:
    make(site, "2024-12")
    make(site, "2024-12", creator="bob")
    for whose in ("ana", "bob"):
        url = f"/api/creators/{whose}{route}"
        other = "bob" if whose == "ana" else "ana"
        assert get(site, url, whose).status_code == 200
        assert get(site, url, "admin").status_code == 200
        refused(get(site, url, other), 404, f"no creator '{whose}'")
        refused(get(site, url, None), 401)
        refused(get(site, url, None, Authorization="Bearer nonsense"), 401)
        refused(get(site, url, None, Authorization=f"Bearer {ADMIN}x"), 401)
    nobody = [
        get(site, f"/api/creators/{who}{route}", "admin") for who in ("zoe", "a%00b", "ANA", "%20")
    ]
    for answer in nobody:
        refused(answer, 404, "no creator")
    unknown = get(site, f"/api/creators/zoe{route}", "ana").json
    theirs = get(site, f"/api/creators/bob{route}", "ana").json
    assert str(unknown).replace("zoe", "bob") == str(theirs), "which ids there are is not told"
    refused(get(site, f"/api/creators/zoe{route}", "zoe"), 404)


def test_in_local_mode_a_creator_is_no_admin(lite: Callable[..., Site]) -> None:
    site = lite()
    url = "/api/creators/bob/statements"
    assert get(site, url, None).status_code == 200, "anyone on this machine"
    refused(get(site, url, "ana"), 404)
    far = site.app.test_client().get(url, environ_base={"REMOTE_ADDR": "203.0.113.7"})
    refused(far, 401)


def test_without_a_secret_key_admins_are_served(lite: Callable[..., Site]) -> None:
    site = lite(stripe_api_key=SecretStr("sk_live_x"), admin_token=SecretStr(ADMIN))
    assert get(site, STATEMENTS, "admin").status_code == 200
    refused(get(site, STATEMENTS, None), 503, "SECRET_KEY")


def test_nothing_but_reading(site: Site) -> None:
    client, headers = site.app.test_client(), site.headers("ana")
    for route in ROUTES:
        for method in (client.post, client.put, client.delete):
            refused(method(f"/api/creators/ana{route}", headers=headers), 405)


def test_figures_are_whole_numbers_on_either_database(site: Site) -> None:
    earned(site, ("2025-01-05", "usd", "tips", sums(2**53 + 1)))
    text = get(site, f"{EARNINGS}?{WINDOW}").text
    assert f'"gross":{2**53 + 1}' in text
    assert json.loads(text)["earnings"][0]["sales"] == 1
    assert site.now == START


# The profile, the limit, and who is there


@pytest.fixture
def cached(site: Site, redis_url: str) -> Site:
    """The site with a cache that has all the time it needs, and is empty."""
    kit = Kit("redis", redis_url, redis_url)
    site.made = replace(site.made, cache=kit.cache)
    site.app = Flask("app", static_folder=None)
    web.register(site.app, site.made)
    return site


def test_a_profile_is_kept_for_five_minutes(cached: Site) -> None:
    with cached.db.begin() as tx:
        tx.execute(insert(lifetime).values(creator_id="ana", currency="usd", **sums(900, 100, 50)))
    told = get(cached, "/api/creators/ana")
    assert told.json == {
        "id": "ana",
        "name": "Ana",
        "country": "US",
        "currency": "usd",
        "payoutsEnabled": True,
        "since": "2024-01-29T12:00:00.000Z",
        "lifetime": [
            {"currency": "usd", "gross": 900, "refunds": 100, "fees": 50, "net": 750, "sales": 1}
        ],
    }
    with cached.db.begin() as tx:
        tx.execute(update(Creator).where(Creator.id == "ana").values(name="Bea"))
    again = get(cached, "/api/creators/ana", **{"If-None-Match": told.headers["ETag"]})
    assert again.status_code == 304, "still the one that is kept"
    assert cached.made.cache.invalidate_creator_profile("ana")
    assert get(cached, "/api/creators/ana", "admin").json["name"] == "Bea"
    refused(get(cached, "/api/creators/ana", "bob"), 404)
    refused(get(cached, "/api/creators/eve", "admin"), 404, "eve")


def test_a_creator_calls_so_often_and_no_more(
    cached: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creators, "CALLS", 2)
    url = f"{EARNINGS}?{WINDOW}"
    assert [get(cached, url).status_code for _ in range(3)] == [200, 200, 429]
    limited = get(cached, "/api/creators/ana")
    refused(limited, 429, "at most 2 calls in 60 s")
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert get(cached, "/api/creators/bob", "bob").status_code == 200, "each for themselves"
    assert get(cached, url, "admin").status_code == 200, "the admins have no limit"


def test_without_a_cache_there_is_no_limit_and_the_same_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creators, "CALLS", 1)
    site.made.cache._line._connect = connecting("redis", "redis://127.0.0.1:1/0")
    answers = [get(site, "/api/creators/ana") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.data for answer in answers} == {answers[0].data}
    assert get(site, "/api/analytics/present", "admin").json == {"present": []}


def test_who_is_there(cached: Site) -> None:
    for who in ("ana", "bob", "ana"):
        get(cached, f"/api/creators/{who}", who)
    get(cached, "/api/creators/ana", "admin")
    there = get(cached, "/api/analytics/present", "admin")
    assert sorted(there.json["present"]) == ["ana", "bob"]
    refused(get(cached, "/api/analytics/present"), 401)

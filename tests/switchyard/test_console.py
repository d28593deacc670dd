"""The console's door, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from app.switchyard import audit
from app.switchyard.console.door import TRIES
from queues.backend import connect
from tests.support.console import TOKEN, Site, csrf, log_in, move, where
from tests.support.waiting import PATIENCE_SECONDS


def test_nobody_comes_in_without_the_token(site: Site) -> None:
    """test_who_may_call shows what each route answers to whom."""
    client = site.app.test_client()
    for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", "ö" * 22):
        refused = log_in(client, token)
        assert (refused.status_code, "that is not ADMIN_TOKEN" in refused.text) == (401, True)
        assert token == "" or token not in refused.text
    assert client.get("/console").status_code == 303
    for taken in ("guardrail", "api", "<b>"):
        assert log_in(client, name=taken).status_code == 422
    answer = log_in(client, next="/console/runs?job=noop")
    assert (answer.status_code, answer.location) == (303, "/console/runs?job=noop")
    assert client.get("/console/login").location == "/console"


@pytest.mark.parametrize(
    "there",
    ["//evil.example", "https://evil.example/console", "/consolation", "/console\\@evil", "/"],
)
def test_after_the_login_it_goes_nowhere_else(site: Site, there: str) -> None:
    assert log_in(site.app.test_client(), next=there).location == "/console"


def test_the_cookie_and_the_headers(site: Site) -> None:
    client = site.app.test_client()
    plain = log_in(client).headers["Set-Cookie"]
    assert re.match(r"switchyard=.*; HttpOnly; Path=/; SameSite=Lax$", plain)
    assert TOKEN not in plain
    there = {"X-Forwarded-Proto": "https"}
    answer = log_in(site.app.test_client(), headers=there)
    assert "; Secure; HttpOnly;" in answer.headers["Set-Cookie"]
    page = client.get("/console")
    assert page.headers["Cache-Control"] == "no-store"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    style = client.get("/console/static/console.css")
    assert (style.status_code, style.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "Set-Cookie" not in style.headers


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("switchyard")
    assert cookie is not None
    return cookie.value


def bearing(site: Site, cookie: str) -> FlaskClient:
    client = site.app.test_client()
    client.set_cookie("switchyard", cookie)
    return client


def test_a_session_ends_with_its_logout_wherever_its_cookie_is(
    site: Site, client: FlaskClient
) -> None:
    form = {"csrf": csrf(client, "/console/jobs/parent"), "stage": "live", "why": "x"}
    other = bearing(site, cookie_of(client))
    assert other.get("/console").status_code == 200
    gone = client.post("/console/logout", data=form)
    assert (gone.status_code, gone.location) == (303, "/console/login")
    for late in (client, other):
        assert late.get("/console").location.startswith("/console/login")
        assert late.post("/console/jobs/parent/stage", data=form).status_code in (303, 403)
    assert where(site) == []
    assert log_in(client).status_code == 303
    assert client.get("/console").status_code == 200


def test_where_no_end_of_a_session_can_be_known_nobody_is_let_in(
    site: Site, client: FlaskClient
) -> None:
    with site.runtime.db.begin() as connection:
        connection.exec_driver_sql("DROP TABLE switchyard_nonces")
    assert client.get("/console/login").status_code == 503
    assert client.get("/console").status_code == 503


def test_below_a_path_of_its_server_pages_find_themselves(site: Site) -> None:
    client = site.app.test_client()
    below = {"SCRIPT_NAME": "/jobs"}
    asked = client.get("/console/runs?job=noop", environ_overrides=below)
    assert asked.location == "/jobs/console/login?next=/jobs/console/runs?job%3Dnoop"
    assert log_in(client).status_code == 303
    page = client.get("/console/runs?job=noop", environ_overrides=below).text
    assert 'hx-get="/jobs/console/runs?job=noop"' in page


def test_a_session_ends_unused_and_in_any_case_after_a_day(site: Site, client: FlaskClient) -> None:
    """A page that is only open does not use it."""
    for hours, known in ((11, True), (11, True), (3, False)):
        site.now += timedelta(hours=hours)
        assert (client.get("/console").status_code == 200) is known
    assert log_in(client).status_code == 303
    for _ in range(11):
        site.now += timedelta(hours=1)
        assert client.get("/console", headers={"HX-Request": "true"}).status_code == 200
    site.now += timedelta(hours=1, seconds=1)
    assert client.get("/console").location.startswith("/console/login")


def test_another_token_or_secret_knows_nobody_of_before(
    site: Site, client: FlaskClient, sites: Callable[..., Site]
) -> None:
    cookie = cookie_of(client)
    changes = {"admin_token": TOKEN + "2", "secret_key": "another-secret-key"}
    for name, value in changes.items():
        other = sites(**{name: SecretStr(value)})
        for said in (cookie, cookie[:-1] + "A", "", "e30.x.y"):
            assert bearing(other, said).get("/console").status_code == 303
    assert bearing(site, cookie).get("/console").status_code == 200


def test_the_read_only_token_sees_all_and_changes_nothing(sites: Callable[..., Site]) -> None:
    own = {"read_only_token": SecretStr(TOKEN[::-1])}
    site = sites(**own)
    client = site.app.test_client()
    assert log_in(client, TOKEN[::-1]).status_code == 303
    for path in ("", "/runs", "/history", "/jobs/parent"):
        page = client.get(f"/console{path}")
        assert (page.status_code, "read only" in page.text) == (200, True)
    assert 'class="panel" id="stage"' not in client.get("/console/jobs/parent").text
    assert move(client) == 403
    assert where(site) == []
    cookie = cookie_of(client)
    out = client.post("/console/logout", data={"csrf": csrf(client, "/console")})
    assert out.location == "/console/login"
    assert bearing(site, cookie).get("/console").status_code == 303
    assert log_in(client).status_code == 303
    assert move(client) == 303
    alone = sites(**own, admin_token=None)
    assert log_in(alone.app.test_client(), TOKEN[::-1]).status_code == 303


def test_a_form_of_another_session_or_an_odd_origin_changes_nothing(
    site: Site, client: FlaskClient
) -> None:
    """test_who_may_call tries each form with a forged token, and from another site's page."""
    stranger = site.app.test_client()
    log_in(stranger, name="eve")
    for token in (csrf(stranger, "/console"), "", "ö"):
        assert move(client, csrf=token) == 403
    own = {"csrf": csrf(client, "/console"), "stage": "live", "why": "x"}
    path = "/console/jobs/parent/stage"
    for origin in ("null", "http://localhost.evil.example"):
        assert client.post(path, data=own, headers={"Origin": origin}).status_code == 403
    assert where(site) == []
    assert client.post(path, data=own, headers={"Origin": "http://localhost"}).status_code == 303
    assert where(site) == ["live"]


def test_whoever_is_not_logged_in_may_send_no_large_form(site: Site, client: FlaskClient) -> None:
    """S1: a form is parsed before its token can be checked."""
    large = {"csrf": csrf(client, "/console/jobs/parent"), "stage": "live", "why": "x&" * 10_000}
    stranger = site.app.test_client()
    for path in ("/console/login", "/console/jobs/parent/stage"):
        assert stranger.post(path, data=large).status_code == 413
    assert client.post("/console/jobs/parent/stage", data=large).status_code in (303, 422)


def tries(site: Site, count: int, token: str = "wrong", **how: str) -> list[int]:
    """Try to log in so often, each time from another browser; return the statuses."""
    name, address = how.get("name", "grace"), how.get("address", "192.0.2.1")
    made = []
    for _ in range(count):
        client = site.app.test_client()
        form = {"csrf": csrf(client, "/console/login"), "name": name, "token": token}
        sent = {"X-Forwarded-For": how["by"]} if "by" in how else {}
        there = {"REMOTE_ADDR": address}
        answer = client.post("/console/login", data=form, headers=sent, environ_base=there)
        made.append(answer.status_code)
    return made


def test_guessing_is_slow(site: Site) -> None:
    assert tries(site, TRIES + 1) == [401] * TRIES + [429]
    assert tries(site, 1, TOKEN) == [429]
    # By address and by name as well, whatever the other one is.
    assert tries(site, 1, name="eve") == [429]
    assert tries(site, 1, address="192.0.2.2") == [429]
    assert tries(site, 1, name="eve", address="192.0.2.2") == [401]


def test_the_right_token_is_never_refused_for_what_others_tried(site: Site) -> None:
    tries(site, TRIES + 1)
    assert tries(site, 1, TOKEN, name="ada") == [303]  # at the same proxy
    assert tries(site, 1, TOKEN, address="192.0.2.2") == [303]  # under the same name
    # Under the same name and at the same proxy, which no setting counts.
    assert tries(site, TRIES + 1, name="joan", by="192.0.2.3")[-1] == 429
    assert tries(site, 1, TOKEN, name="joan", by="192.0.2.4") == [303]


def test_a_client_is_who_a_trusted_proxy_says_it_is(sites: Callable[..., Site]) -> None:
    site = sites(trusted_proxies=2)
    spoofed = "203.0.113.9, 198.51.100.1, 10.0.0.1"
    assert tries(site, TRIES + 1, by=spoofed)[-1] == 429
    assert tries(site, 1, by="1.1.1.1, 198.51.100.1, 10.0.0.2", name="eve") == [429]
    assert tries(site, 1, by="1.1.1.1, 198.51.100.2, 10.0.0.1", name="eve") == [401]


def test_tries_are_counted_over_all_processes(sites: Callable[..., Site], redis_url: str) -> None:
    connect(redis_url).flushdb()
    two = [sites(redis_url=redis_url) for _ in range(2)]
    for each in two:
        each.runtime.cache._breaker._seconds = PATIENCE_SECONDS  # a busy machine is no outage
    assert tries(two[0], TRIES) == [401] * TRIES
    assert tries(two[1], 1) == [429]


def test_in_local_mode_a_form_needs_its_token_all_the_same(sites: Callable[..., Site]) -> None:
    site = sites(Site)
    client = site.app.test_client()
    assert client.get("/console/").status_code == 200
    assert move(client, csrf="x") == 403
    assert move(client) == 303
    assert audit.history(site.runtime.db, act="stage")[0]["by"] == "local"


def test_without_its_settings_it_is_closed(sites: Callable[..., Site]) -> None:
    live = {"stripe_api_key": SecretStr("sk_live_x")}
    guard = {**live, "admin_token": SecretStr(TOKEN)}
    for settings, secret, status, says in (
        (live, None, 401, "ADMIN_TOKEN is not set"),
        (guard, None, 503, "SECRET_KEY is not set"),
        (guard, "", 503, "SECRET_KEY is not set"),
        (guard, b"a host's own", 503, "has less than 16 characters"),
    ):
        app = sites(Site, **settings).app
        app.secret_key = secret
        answer = app.test_client().get("/console/login")
        assert (answer.status_code, says in answer.text) == (status, True)


def test_in_local_mode_sessions_are_not_signed_with_what_everybody_knows(
    sites: Callable[..., Site],
) -> None:
    """An app that has ADMIN_TOKEN alone serves other machines, too."""
    one, other = (sites(Site, admin_token=SecretStr(TOKEN)) for _ in range(2))
    client = one.app.test_client()
    assert log_in(client).status_code == 303
    assert bearing(other, cookie_of(client)).get("/console").status_code == 303

"""The console in a host app that has sessions, CSRF protection, pages and logs of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, redirect, session
from flask.testing import FlaskClient
from flask_wtf.csrf import CSRFProtect
from pydantic import SecretStr

from app.switchyard import audit
from app.switchyard.access import Access, AccessCheck
from app.switchyard.config import Settings
from app.switchyard.extension import Switchyard
from tests.support.console import csrf as form_token
from tests.support.tables import create_all

TOKEN = "0123456789abcdef-admin"
HOME = "/switchyard/console"


def host(
    folder: Path,
    settings: dict[str, SecretStr],
    secret: str | None = "the host's own secret",
    access: AccessCheck | None = None,
    also: Callable[[Flask], object] = lambda _: None,
) -> Flask:
    templates = folder / "templates" / "console"
    templates.mkdir(parents=True, exist_ok=True)
    (templates / "base.html").write_text("the host's own console")
    app = Flask("shop", template_folder=str(folder / "templates"))
    app.secret_key = secret
    for name in ("console", "health", "trigger", "mail"):
        app.register_blueprint(Blueprint(name, __name__))

    @app.post("/cart")
    def cart() -> str:
        session["cart"] = session.get("cart", 0) + 1
        return str(session["cart"])

    @app.errorhandler(404)
    def lost(_: Exception) -> tuple[str, int]:
        return "the host's own 404", 404

    also(app)
    url = f"sqlite:///{folder / 'shop.db'}"
    own = Settings(
        database_url=url, redis_url="redis://127.0.0.1:1/0", switchyard_jobs="tests.support.jobs"
    )
    own = own.model_copy(update=settings)
    Switchyard(app, settings=own, access=access)
    create_all(app.extensions["switchyard"].db.engine)
    return app


LIVE = {"inngest_event_key": SecretStr("k"), "admin_token": SecretStr(TOKEN)}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    made = host(tmp_path, LIVE)
    yield made
    made.extensions["switchyard"].db.dispose()


def log_in(client: FlaskClient) -> int:
    form = {"csrf": form_token(client, f"{HOME}/login"), "name": "ada", "token": TOKEN}
    return client.post(f"{HOME}/login", data=form).status_code


def test_it_shares_the_hosts_session_and_keeps_out_of_the_rest_of_it(app: Flask) -> None:
    client = app.test_client()
    assert client.post("/cart").text == "1"
    assert log_in(client) == 303
    for path in ("", "/runs", "/history", "/jobs/parent"):
        page = client.get(f"{HOME}{path}")
        assert (page.status_code, "the host's own" in page.text) == (200, False)
        assert f"{HOME}/static/" in page.text
        assert "/console/mail" not in page.text
    with client.session_transaction() as kept:
        assert set(kept) == {"cart", "switchyard", "switchyard_csrf"}
    left = {"csrf": form_token(client, HOME)}
    assert client.post(f"{HOME}/logout", data=left).status_code == 303
    assert client.post("/cart").text == "2"
    assert client.get_cookie("session") is not None


def test_the_hosts_own_csrf_protection_is_its_own(tmp_path: Path) -> None:
    """It guards the host's forms; the console has form tokens of its own."""
    app = host(tmp_path, LIVE, also=CSRFProtect().init_app)
    client = app.test_client()
    assert client.post("/cart").status_code == 400
    assert log_in(client) == 303
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    body = {"name": "test.child", "data": {"name": "x"}}
    assert client.post("/api/inngest/trigger", json=body, headers=bearer).status_code == 202
    assert client.post("/api/qstash/deliver", data=b"{}").status_code == 401
    assert client.post("/api/inngest", data=b"{}").status_code == 401
    assert client.post(f"{HOME}/jobs/parent/stage", data={"stage": "live"}).status_code == 403
    app.extensions["switchyard"].db.dispose()


def test_without_a_secret_of_the_host_it_has_the_settings_or_none(tmp_path: Path) -> None:
    cases: tuple[tuple[str, dict[str, SecretStr], int], ...] = (
        ("a", {**LIVE, "secret_key": SecretStr("of the settings!")}, 200),
        ("b", LIVE, 503),
        ("c", {}, 200),
    )
    secrets = []
    for name, settings, status in cases:
        (tmp_path / name).mkdir()
        app = host(tmp_path / name, settings, secret=None)
        secrets.append(app.secret_key)
        assert app.test_client().get(f"{HOME}/login", follow_redirects=True).status_code == status
        app.extensions["switchyard"].db.dispose()
    assert secrets[:2] == ["of the settings!", None]
    assert len(str(secrets[2])) >= 32  # this process's own


class Login:
    """A host's own login: what it says of whoever sends the next request."""

    def __init__(self) -> None:
        self.says: Any = None

    def __call__(self) -> Any:
        if isinstance(self.says, int):
            abort(self.says)
        return self.says


@pytest.fixture
def login() -> Login:
    return Login()


@pytest.fixture
def guest(tmp_path: Path, login: Login) -> Iterator[FlaskClient]:
    app = host(tmp_path, LIVE, access=login)
    yield app.test_client()
    app.extensions["switchyard"].db.dispose()


PAGES = ("", "/jobs/parent", "/runs", "/history")


def move(client: FlaskClient, csrf: str | None) -> int:
    form = {"stage": "live", "why": "a test", **({} if csrf is None else {"csrf": csrf})}
    return client.post(f"{HOME}/jobs/parent/stage", data=form).status_code


def history(client: FlaskClient) -> list[tuple[str, str]]:
    db = client.application.extensions["switchyard"].db
    return [(row["to"], row["by"]) for row in audit.history(db, act="stage")]


@pytest.mark.parametrize(
    ("says", "by"),
    [
        ("all", "host"),
        (Access.ALL, "host"),
        (("all", "ada@shop.example"), "ada@shop.example"),
        (("all", "<b>"), "host"),
        (("all", "guardrail"), "host"),
        (("all", "api"), "host"),
        (("all", None), "host"),
    ],
)
def test_whom_the_host_lets_in_may_do_everything(
    guest: FlaskClient, login: Login, says: Any, by: str
) -> None:
    login.says = says
    assert [guest.get(HOME + page).status_code for page in PAGES] == [200] * 4
    assert "Log out" not in guest.get(HOME).text
    assert guest.get(f"{HOME}/login").location == HOME
    assert move(guest, form_token(guest, f"{HOME}/jobs/parent")) == 303
    assert history(guest) == [("live", by)]
    assert move(guest, None) == 403
    assert move(guest, "wrong") == 403


def test_who_may_only_look_sees_all_and_does_nothing(guest: FlaskClient, login: Login) -> None:
    login.says = "all"
    csrf = form_token(guest, f"{HOME}/jobs/parent")
    login.says = "read_only"
    pages = [guest.get(HOME + page) for page in PAGES]
    assert [page.status_code for page in pages] == [200] * 4
    assert all("read only" in page.text and 'method="post"' not in page.text for page in pages)
    assert move(guest, csrf) == 403
    for deed in ("retry", "cancel"):
        path = f"{HOME}/runs/{'0' * 26}/{deed}"
        assert guest.post(path, data={"csrf": csrf}).status_code == 403
    assert guest.post(f"{HOME}/logout", data={"csrf": csrf}).status_code == 403
    assert history(guest) == []


def test_nobody_else_comes_in(guest: FlaskClient, login: Login) -> None:
    assert [guest.get(HOME + page).status_code for page in (*PAGES, "/login")] == [403] * 5
    assert move(guest, None) == 403
    form = {"name": "ada", "token": TOKEN}
    assert guest.post(f"{HOME}/login", data=form).status_code == 403
    assert guest.get(f"{HOME}/static/console.css").status_code == 200
    login.says = "all"
    form["csrf"] = form_token(guest, f"{HOME}/jobs/parent")
    assert guest.post(f"{HOME}/login", data=form).status_code == 403
    login.says = (None, "ada")
    assert guest.get(HOME).status_code == 403


def test_the_host_may_answer_itself(guest: FlaskClient, login: Login) -> None:
    login.says = redirect("/log-in")
    answer = guest.get(HOME)
    assert (answer.status_code, answer.location) == (302, "/log-in")
    login.says = 401
    assert guest.get(HOME).status_code == 401
    login.says = 404
    assert guest.get(HOME).text == "the host's own 404"
    login.says = "everything"
    answer = guest.get(HOME)
    assert (answer.status_code, "not one of all, read_only or None" in answer.text) == (500, True)


def test_a_form_has_a_limit_where_the_host_has_set_none(tmp_path: Path) -> None:
    client = host(tmp_path, {**LIVE}).test_client()
    token = form_token(client, f"{HOME}/login")
    form = {"csrf": token, "name": "ada", "token": TOKEN, "next": "x" * 2**20}
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post(f"{HOME}/login", data=form, content_type=kind).status_code == 413

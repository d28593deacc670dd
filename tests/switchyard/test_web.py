"""The HTTP entrances: the trigger, its errors and health."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.platform.config import load
from app.switchyard import http, logs, runtime
from app.switchyard.errors import MOST_MISFITS
from tests.support.sides import Fixed, app_on, build, decide_by, environment
from tests.support.waiting import until

TOKEN = "0123456789abcdef-admin"


@pytest.fixture
def client_of(tmp_path: Path, redis_url: str, opened: ExitStack) -> Callable[..., FlaskClient]:
    """Makes the app with these settings as well."""

    def made(**more: str) -> FlaskClient:
        environ = environment(f"sqlite:///{tmp_path / 'test.db'}", redis_url, **more)
        client = opened.enter_context(app_on(environ)).test_client()
        decide_by(Fixed("rq"))
        return client

    return made


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Flask]:
    folder = tmp_path_factory.mktemp("web")
    with app_on(environment(f"sqlite:///{folder / 'test.db'}", redis_url)) as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    runtime.install(app.extensions[runtime.EXTENSION])
    decide_by(Fixed("rq"))
    return app.test_client()


@pytest.fixture
def guarded(client_of: Callable[..., FlaskClient]) -> FlaskClient:
    """Not in local mode: a credential of an outside service is set."""
    return client_of(STRIPE_API_KEY="sk_live_x", ADMIN_TOKEN=TOKEN)


def trigger(client: FlaskClient, body: Any, **options: Any) -> Any:
    return client.post("/api/inngest/trigger", json=body, **options)


def test_the_trigger_answers_as_agreed(client: FlaskClient) -> None:
    n = uuid4().hex
    body = {"name": "test.child", "data": {"name": n}, "id": n}
    first, again = trigger(client, body), trigger(client, body)
    assert (first.status_code, again.status_code) == (202, 202)
    assert set(first.json) == {"runId", "job", "backend", "reason", "status", "created"}
    assert (first.json["job"], first.json["backend"]) == ("child", "rq")
    assert (first.json["created"], again.json["created"]) == (True, False)
    assert first.json["runId"] == again.json["runId"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "no.such", "data": {}}, 404, "no job for event"),
        ({"name": "test.child", "data": {}}, 422, "name: Field required"),
        ({"name": "test.child", "data": {"name": "x", "colour": 1}}, 422, "colour"),
        ({"name": "test.child", "data": []}, 422, "data: must be an object"),
        ({"name": 3}, 422, "name"),
        ({"data": {}}, 422, "name"),
        ({"name": "test.child", "data": {"name": "x"}, "id": 3}, 422, "id"),
        ({"name": "test.child", "data": {"name": "x"}, "id": ""}, 422, "id"),
        ({"name": "test.child", "data": {"name": "x"}, "id": "k" * 300}, 422, "255"),
        ({"name": "test.child", "extra": 1}, 422, "extra"),
        ([1], 422, "object"),
    ],
)
def test_bad_input_is_a_problem(client: FlaskClient, body: Any, status: int, says: str) -> None:
    answer = trigger(client, body)
    assert answer.content_type == "application/problem+json"
    assert answer.status_code == status
    problem = answer.get_json(force=True)
    assert set(problem) - {"errors"} == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert says in problem["detail"]


def test_every_misfit_is_named_with_where_it_is(client: FlaskClient) -> None:
    for body, pointers in (
        ({"nam": 1, "data": [], "id": "", "a/b~c": 2}, {"name", "nam", "data", "id", "a~1b~0c"}),
        ({"name": "test.child", "data": {"nam": 1, "x": 2}}, {"data/name", "data/nam", "data/x"}),
    ):
        errors = trigger(client, body).get_json(force=True)["errors"]
        assert {error["pointer"] for error in errors} == {f"#/{each}" for each in pointers}
        assert all(error["detail"] for error in errors)
    many = {"name": "test.child", "data": {f"x{n}": n for n in range(1000)}}
    assert len(trigger(client, many).get_json(force=True)["errors"]) == MOST_MISFITS


def test_a_request_s_id_is_in_its_answer_and_its_log(
    client_of: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of()
    logged: list[object] = []
    monkeypatch.setattr(
        http.log, "error", lambda *_: logged.append(logs.values().get("request_id"))
    )
    for path in ("/healthz", "/nowhere", "/console", "/console/static/console.css", "/api/inngest"):
        for given, taken in (("req-1/a:b", True), ("x" * 129, False), ("", False), ("a b", False)):
            answer = client.get(path, headers={"X-Request-Id": given})
            assert (answer.headers["X-Request-Id"] == given) is taken
            assert re.fullmatch(r"req-1/a:b|[0-9a-f]{32}", answer.headers["X-Request-Id"])
    with runtime.current().db.begin() as connection:
        connection.exec_driver_sql("DROP TABLE switchyard_runs")
    body, mine = {"name": "test.child", "data": {"name": "x"}}, {"X-Request-Id": "mine"}
    assert trigger(client, body, headers=mine).status_code == 503
    assert logged == ["mine"]
    assert "request_id" not in logs.values()


def test_what_is_not_json(client: FlaskClient) -> None:
    path = "/api/inngest/trigger"
    broken = client.post(path, data="{", content_type="application/json")
    other = client.post(path, data="name=x")
    huge = client.post(path, data=b"x" * 9_000_000, content_type="application/json")
    assert [a.status_code for a in (broken, other, huge)] == [400, 415, 413]
    for answer in (broken, other, huge):
        assert answer.content_type == "application/problem+json"
    assert broken.get_json(force=True)["detail"] == "the body is not valid JSON"


def test_a_key_with_another_payload_is_a_conflict(client: FlaskClient) -> None:
    n = uuid4().hex
    assert trigger(client, {"name": "test.child", "data": {"name": n}, "id": n}).status_code == 202
    other = trigger(client, {"name": "test.child", "data": {"name": n + "x"}, "id": n})
    assert other.status_code == 409


def test_the_trigger_is_open_to_the_admin_s_token_alone(guarded: FlaskClient) -> None:
    body = {"name": "test.child", "data": {"name": "x"}}
    for given in ("", "Bearer wrong", f"Basic {TOKEN}"):
        answer = trigger(guarded, body, headers={"Authorization": given})
        assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
        assert TOKEN not in answer.text
    mine = {"Authorization": f"Bearer {TOKEN}"}
    assert trigger(guarded, body, headers=mine).status_code == 202


INNGEST = "/api/inngest?fnId=switchyard-child&stepId=step"
NOT_FROM_HERE: list[dict[str, Any]] = [
    {"environ_overrides": {"REMOTE_ADDR": "10.0.0.9"}},
    {"environ_overrides": {"REMOTE_ADDR": "172.17.0.2"}},
    {"environ_overrides": {"SERVER_PROTOCOL": "HTTP/1.0"}},  # nginx with no settings of its own
    *(
        {"headers": {name: value}}
        for name, value in (
            *(("Host", host) for host in ("evil.example", "127.0.0.1.evil.example", "127.1", "")),
            *(("Origin", of) for of in ("https://evil.example", "null", "http://localhost:1")),
            *(("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Proto", "https"), ("Via", "1.1 x")),
            *(("Forwarded", "for=127.0.0.1"), ("X-Real-IP", "127.0.0.1"), ("CDN-Loop", "x")),
            *(("CF-Connecting-IP", "::1"), ("True-Client-IP", "::1"), ("X-Original-URL", "/")),
        )
    ),
]


def test_inngest_s_handler_is_closed_where_there_is_no_inngest_yet(guarded: FlaskClient) -> None:
    """In production on RQ alone there is no signing key: nobody can be known as Inngest."""
    mine = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("GET", "PUT", "POST"):
        assert guarded.open(INNGEST, method=method, json={}, headers=mine).status_code == 401


DEV = {"INNGEST_DEV": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "more", [{}, DEV, {**DEV, "STRIPE_API_KEY": "sk_test_x", "ADMIN_TOKEN": TOKEN}]
)
def test_unsigned_calls_are_taken_from_this_machine_only(
    client_of: Callable[..., FlaskClient], more: dict[str, str]
) -> None:
    """S4: none is taken from elsewhere, through a proxy or from a page."""
    client = client_of(**more)
    assert client.get("/api/inngest").status_code == 200
    for method in ("GET", "PUT", "POST"):
        for options in NOT_FROM_HERE:
            answer = client.open(INNGEST, method=method, data="{}", **options)
            assert answer.status_code == 401, options
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post(INNGEST, data="{}", content_type=kind).status_code == 415


def test_local_mode_is_open_on_this_machine_only(client: FlaskClient) -> None:
    body = {"name": "test.child", "data": {"name": "x"}}
    for options in NOT_FROM_HERE:
        assert trigger(client, body, **options).status_code == 401, options
        assert client.get("/console", **options).status_code == 401, options
        assert client.get("/api/runs", **options).status_code == 401, options
    for host in ("127.0.0.1:3005", "localhost", "LOCALHOST:80", "[::1]", "[::1]:80"):
        here = {"Host": host, "Origin": f"http://{host.lower().removesuffix(':80')}"}
        assert trigger(client, body, headers={"Host": host}).status_code == 202, host
        assert client.get("/console", headers=here).status_code == 200, host


def test_behind_a_proxy_local_mode_serves_nobody(client_of: Callable[..., FlaskClient]) -> None:
    """S9: also one that adds no header, and calls as a program on this machine would."""
    client = client_of(**DEV, TRUSTED_PROXIES="1")
    body = {"name": "test.child", "data": {"name": "x"}}
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}):
        assert trigger(client, body, headers=headers).status_code == 401
        for path in ("/console", "/api/runs", "/api/inngest"):
            assert client.get(path, headers=headers).status_code == 401, path


def test_health(client: FlaskClient) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    until(lambda: client.get("/readyz").status_code == 200)

    def said(part: str) -> str:
        return str(client.get("/readyz").get_json()["parts"][part])

    until(lambda: said("rq") == "ok")
    until(lambda: "Connection refused" in said("inngest"))


@pytest.mark.parametrize("url", ["sqlite:///{}/empty.db", "postgresql://u@127.0.0.1:1/none"])
def test_without_a_database_or_its_tables_nothing_is_recorded(
    tmp_path: Path, redis_url: str, url: str
) -> None:
    client = build(load(environment(url.format(tmp_path), redis_url))).test_client()
    answer = trigger(client, {"name": "test.child", "data": {"name": "x"}})
    assert (answer.status_code, answer.content_type) == (503, "application/problem+json")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.get_json()["ready"]) == (503, False)
    runtime.current().db.dispose()


def test_an_unknown_page_is_a_problem(client: FlaskClient) -> None:
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")

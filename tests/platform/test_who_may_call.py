"""Who gets what on each route of the app: a table of its own list. A route that is not in the table
fails the test, so that nobody adds one without saying who may call it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.switchyard.dispatch import dispatch
from tests.platform.test_every_route import LIVE, TOKEN
from tests.support.console import csrf, log_in
from tests.support.sides import app_on, environment

READER = "fedcba9876543210-reader"
METRICS = "a-token-of-prometheus"
EVIL = {"Origin": "https://evil.example"}

TABLE = {
    "open to all": """
        GET /console/login
        GET /console/static/<path:filename>
        GET /healthz
        GET /readyz
    """,
    "a login": "POST /console/login",
    "a page": """
        GET /console
        GET /console/
        GET /console/bulk/<any(retry, cancel):deed>
        GET /console/history
        GET /console/jobs/<name>
        GET /console/runbook
        GET /console/runs
        GET /console/runs.<any(csv, json):kind>
        GET /console/runs/<run_id>
    """,
    "a form": """
        POST /console/bulk/<any(retry, cancel):deed>
        POST /console/jobs/<name>/<any(rollback, drain):kind>
        POST /console/jobs/<name>/explain
        POST /console/jobs/<name>/pin
        POST /console/jobs/<name>/run
        POST /console/jobs/<name>/stage
        POST /console/rollback
        POST /console/runs/<run_id>/<any(retry, cancel):deed>
    """,
    "a farewell": "POST /console/logout",
    "a look by API": """
        GET /api/history
        GET /api/jobs
        GET /api/jobs/<name>
        GET /api/openapi.json
        GET /api/runs
        GET /api/runs/<run_id>
    """,
    "an act by API": """
        POST /api/jobs/<name>/drain
        POST /api/jobs/<name>/rollback
        POST /api/jobs/<name>/run
        POST /api/jobs/<name>/stage
        POST /api/rollback
        POST /api/runs/<run_id>/cancel
        POST /api/runs/<run_id>/retry
        POST /api/runs/bulk
    """,
    "the trigger": "POST /api/inngest/trigger",
    "signed": """
        GET /api/inngest
        POST /api/inngest
        PUT /api/inngest
        POST /api/qstash/deliver
        POST /api/qstash/failed
        POST /api/webhooks/<source>
        POST /api/webhooks/stripe
    """,
    "Prometheus": "GET /metrics",
    "a link that was mailed": "GET /statements/<token>",
}
KINDS = {line.strip(): kind for kind, lines in TABLE.items() for line in lines.strip().splitlines()}

IN, OUT, LOGIN, REFUSED = "let in", "401", "to the login", "403"
# For each kind: nobody; the reader's and the operator's token; then, in a session of theirs, the
# reader and the operator with a right form token, the operator with a forged one, and with a right
# one from a page of another site.
EXPECTED = {
    "open to all": (IN, IN, IN, IN, IN, IN, IN),
    "a login": (REFUSED, REFUSED, REFUSED, IN, IN, REFUSED, REFUSED),
    "a page": (LOGIN, LOGIN, LOGIN, IN, IN, IN, IN),
    "a form": (REFUSED, REFUSED, REFUSED, REFUSED, IN, REFUSED, REFUSED),
    "a farewell": (REFUSED, REFUSED, REFUSED, IN, IN, REFUSED, REFUSED),
    "a look by API": (OUT, IN, IN, IN, IN, IN, IN),
    "an act by API": (OUT, REFUSED, IN, REFUSED, IN, REFUSED, REFUSED),
    "the trigger": (OUT, OUT, IN, OUT, OUT, OUT, OUT),
    "signed": (OUT,) * 7,
    "Prometheus": (OUT,) * 7,
    "a link that was mailed": (OUT,) * 7,
}


class Callers:
    """The seven callers of the table, each in a browser of its own, and what they fill in."""

    def __init__(self, app: Flask, run: str) -> None:
        self.app, self.run = app, run
        self._sessions: dict[int, tuple[FlaskClient, str]] = {}

    def call(self, number: int, route: str) -> str:
        method, _, path = route.partition(" ")
        client, headers, form = self._as(number)
        path = re.sub(r"<any\((\w+)[^>]*>", r"\1", path)
        path = path.replace("<run_id>", self.run).replace("<name>", "canary")
        path = path.replace("<path:filename>", "console.css").replace("<source>", "shop")
        what: dict[str, Any] = {"headers": headers}
        if method == "POST" and path.startswith("/console"):
            what["data"] = {"why": "x", "stage": "live", "dry_run": "1", "name": "x"} | form
            what["data"] |= {"token": TOKEN} if path.endswith("login") else {}
        elif method != "GET":
            what["json"] = {}
            headers["X-CSRF-Token"] = form.get("csrf", "")
        answer = client.open(path, method=method, **what)
        if method == "POST" and path.endswith(("login", "logout")):
            self._sessions.pop(number, None)  # it has ended, or is another one
        assert answer.status_code < 500 or "/inngest" in path or path == "/readyz", answer.text
        assert "X-Request-Id" in answer.headers
        if answer.status_code in (301, 302, 303, 308) and "/login?" in answer.location:
            return LOGIN
        if "Webhook refused" in answer.text:  # Stripe gets 400 for that
            return OUT
        code = str(answer.status_code)
        return code if code in (OUT, REFUSED) else IN

    def _as(self, number: int) -> tuple[FlaskClient, dict[str, str], dict[str, str]]:
        if number < 3:
            bearer = {1: READER, 2: TOKEN}.get(number)
            headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
            return self.app.test_client(), headers, {}
        if number not in self._sessions:
            client = self.app.test_client()
            assert log_in(client, READER if number == 3 else TOKEN).status_code == 303
            self._sessions[number] = client, csrf(client, "/console")
        client, token = self._sessions[number]
        form = {"csrf": "forged" if number == 5 else token}
        return client, dict(EVIL) if number == 6 else {}, form


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    folder = tmp_path_factory.mktemp("callers")
    more = {"READ_ONLY_TOKEN": READER, "METRICS_TOKEN": METRICS}
    environ = environment(f"sqlite:///{folder / 'test.db'}", "unix:///nowhere", **LIVE, **more)
    del environ["SWITCHYARD_JOBS"]
    with app_on(environ) as app:
        with app.app_context():
            run = dispatch("canary", {"song": "x"}, key="x").id
        yield Callers(app, run)


def routes(app: Flask) -> set[str]:
    return {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_every_route_is_in_the_table(callers: Callers) -> None:
    assert routes(callers.app) == set(KINDS)


@pytest.mark.parametrize("kind", TABLE)
def test_each_gets_what_it_should(callers: Callers, kind: str) -> None:
    got = {
        route: tuple(callers.call(number, route) for number in range(7))
        for route, its in KINDS.items()
        if its == kind
    }
    assert got == dict.fromkeys(got, EXPECTED[kind])

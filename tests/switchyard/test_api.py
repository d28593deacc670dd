"""The API: what it shows, does and refuses, and the document that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import redirect
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import SecretStr
from sqlalchemy import select, update

from app.switchyard import audit
from app.switchyard.dispatch import dispatch
from app.switchyard.operations import bulk
from app.switchyard.operations.search import search
from app.switchyard.runs.models import RunRow
from tests.support.cli import Cli
from tests.support.console import TOKEN, Site, csrf, log_in
from tests.switchyard.test_host_console import LIVE, host

READER = TOKEN[::-1]
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


class Api:
    """The API as an operator calls it."""

    def __init__(self, site: Site) -> None:
        self.site, self.client = site, site.app.test_client()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(f"/api{path}", headers=OPERATOR)
        assert answer.status_code == status, answer.text
        return answer.get_json(force=True)

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(f"/api{path}", json=body, headers=OPERATOR)
        assert answer.status_code == status, answer.text
        return answer.get_json(force=True)


@pytest.fixture
def site(sites: Callable[..., Site]) -> Site:
    return sites(read_only_token=SecretStr(READER))


@pytest.fixture
def api(site: Site) -> Api:
    return Api(site)


def test_its_document_is_valid_and_has_every_event_with_its_payload(api: Api) -> None:
    document = api.get("/openapi.json")
    OpenAPIV31SpecValidator(document).validate()
    trigger = document["paths"]["/api/inngest/trigger"]["post"]
    schema = trigger["requestBody"]["content"]["application/json"]["schema"]
    assert schema["discriminator"]["propertyName"] == "name"
    catalogue = api.site.runtime.catalogue
    assert set(schema["discriminator"]["mapping"]) == {spec.event for spec in catalogue.values()}
    components = document["components"]["schemas"]
    child = components[schema["discriminator"]["mapping"]["test.child"].rpartition("/")[2]]
    payload = components[child["properties"]["data"]["$ref"].rpartition("/")[2]]
    assert (payload["required"], payload["additionalProperties"]) == (["name"], False)
    assert {*document["components"]["securitySchemes"]} == {"operator", "reader", "cookie", "form"}


def test_in_a_host_app_it_is_where_the_console_is(tmp_path: Path) -> None:
    says: list[Any] = [("read_only", "ada")]
    app = host(tmp_path, LIVE, access=lambda: says[-1])
    client = app.test_client()
    there = {"SCRIPT_NAME": "/shop"}
    path = "/switchyard/api/openapi.json"
    document = client.get(path, headers=OPERATOR, environ_overrides=there).get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["servers"] == [{"url": "/shop"}]
    assert {"/switchyard/api/jobs/{name}/drain", "/api/inngest/trigger"} <= {*document["paths"]}
    assert client.get("/switchyard/api/jobs").status_code == 200
    assert client.post("/switchyard/api/rollback", json={"why": "x"}).status_code == 403
    foreign = {"Authorization": "Bearer of the host's own"}
    assert client.get("/switchyard/api/jobs", headers=foreign).status_code == 200
    says.append(redirect("/log-in"))
    answer = client.get("/switchyard/api/jobs")
    assert (answer.status_code, answer.location) == (302, "/log-in")
    says.append("all")
    for path in ("rollback", "runs/bulk", "jobs/pay/run"):
        assert client.post(f"/switchyard/api/{path}", json={}).status_code == 403  # no form token
    assert answer.headers["Cache-Control"] == "no-store"
    app.extensions["switchyard"].db.dispose()


def test_jobs_are_what_the_commands_list_and_where_they_stand(api: Api) -> None:
    api.site.fill()
    answer = api.get("/jobs")
    jobs = {job["name"]: job for job in answer["jobs"]}
    assert answer["use_inngest"] is False
    assert set(jobs) == set(api.site.runtime.catalogue)
    cli = Cli(api.site.app)
    for listed in cli.json("jobs", "list"):
        assert jobs[listed["name"]].items() >= listed.items()
    for status in cli.json("cutover", "status")["jobs"]:
        assert jobs[status["name"]].items() >= status.items()
    one = api.get("/jobs/child")
    assert one.items() >= jobs["child"].items()
    assert one["would_move"] == {"rq": 0, "serverless": one["open"]["rq"]}
    assert one["against_complete"][0].startswith("1 open run on the old side")
    shown = cli.json("jobs", "show", "child")
    assert one.items() >= shown.items()
    assert api.get("/jobs/nope", 404)["detail"].startswith("no job 'nope'")


def test_runs_are_what_the_commands_list_page_by_page(api: Api) -> None:
    ids = api.site.fill()
    cli, seen, older = Cli(api.site.app), list[dict[str, Any]](), ""
    while older is not None:
        page = api.get(f"/runs?limit=30{older and '&before=' + older}")
        seen, older = seen + page["runs"], page["older"]
    assert seen == cli.json("runs", "list", "--limit", "1000")
    failed = api.get("/runs?status=failed&job=hopeless&backend=rq")["runs"]
    assert [run["id"] for run in failed] == [ids["failed"]]
    assert api.get(f"/runs?parent={ids['parent']}")["runs"]
    assert api.get(f"/runs/{ids['done']}") == cli.json("runs", "show", ids["done"])
    for unknown in ("0" * 26, "%00", "a-b", "x" * 40):
        assert api.get(f"/runs/{unknown}", 404)["title"] == "Unknown run"


def test_what_is_called_a_secret_is_hidden(api: Api) -> None:
    api.site.fill()
    run = dispatch("child", {"name": "x"}, key="s")
    payload = '{"apiKey":"of-one","to":"a@b.c","data":[{"resetToken":"of-three","token":null}]}'
    secret = {"payload": payload, "meta": '{"reset_token":"of-two"}'}
    with api.site.runtime.db.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run.id).values(secret))
    shown = api.get(f"/runs/{run.id}")
    assert (shown["payload"]["to"], shown["payload"]["data"][0]["token"]) == ("a@b.c", None)
    browser = api.site.app.test_client()
    log_in(browser)
    page = browser.get(f"/console/runs/{run.id}").text
    assert "a@b.c" in page
    for text in (json.dumps(shown), page):
        assert not any(secret in text for secret in ("of-one", "of-two", "of-three"))


def test_an_act_says_beforehand_what_it_moves_and_is_in_the_history(api: Api) -> None:
    api.site.fill()
    moved = api.post("/jobs/child/stage", stage="ramp", percent=10, why="a tenth", by="ada")
    assert moved == {"name": "child", "stage": "ramp", "percent": 10.0, "version": moved["version"]}
    stale = api.post("/jobs/child/stage", 409, stage="live", why="x", version=0)
    assert "was moved meanwhile" in stale["detail"]
    dry = api.post("/jobs/child/drain", to="serverless", why="go", dry_run=True)
    assert dry == {"act": None, "moved": 0, "asked": 0, "left": dry["left"], "done": False}
    assert dry["left"] > 0
    went = api.post("/jobs/child/drain", to="serverless", why="go")
    assert (went["moved"], went["left"], went["done"]) == (dry["left"], 0, True)
    assert api.post("/rollback", why="2 a.m.", dry_run=True)["left"] >= went["moved"]
    back = api.post("/jobs/child/rollback", why="2 a.m.")
    assert (back["moved"], back["left"], back["done"]) == (went["moved"], 0, False)
    api.site.now += timedelta(seconds=2)
    assert api.post("/jobs/child/rollback", why="2 a.m.", act=back["act"])["done"]
    api.site.lose("inngest")
    refused = api.post("/jobs/child/drain", 503, to="serverless", why="go")
    assert refused["title"] == "Backend unavailable"
    done = [one for one in api.get("/history?job=child")["history"] if one["act"] != "stage"]
    assert [(one["act"], one["by"], one["why"], one["count"]) for one in done] == [
        ("rollback", "api", "2 a.m.", back["moved"]),
        ("drain", "api", "go", went["moved"]),
    ]
    (back, there, *_) = api.get("/history?job=child&act=stage")["history"]
    assert back | {"from": "ramp", "to": "legacy", "percent": None, "by": "api"} == back
    ramped = {"from": "legacy", "to": "ramp", "percent": 10.0, "by": "ada", "why": "a tenth"}
    assert there | ramped == there
    assert {"at", "job"} <= set(there)


def test_runs_are_retried_cancelled_and_begun(api: Api) -> None:
    ids = api.site.fill()
    back = api.post(f"/runs/{ids['failed']}/retry", why="mended", by="ada")
    assert back == {"id": ids["failed"], "status": "pending", "others": 0}
    assert api.post(f"/runs/{ids['failed']}/cancel")["status"] == "cancelled"
    assert api.post(f"/runs/{ids['failed']}/cancel", 409)["title"] == "Run is in another status"
    assert api.post("/runs/nope/cancel", 404)
    run = api.post("/jobs/child/run", 202, data={"name": "now"})
    assert (run["job"], run["created"], run["backend"]) == ("child", True, "rq")
    misfits = api.post("/jobs/child/run", 422, data={"nam": 1})["errors"]
    assert {one["pointer"] for one in misfits} == {"#/data/name", "#/data/nam"}
    acts = api.get("/history")["history"]
    assert [(one["act"], one["by"], one["run_id"], one["count"]) for one in acts[:3]] == [
        ("run", "api", run["id"], 1),
        ("cancel", "api", ids["failed"], 1),
        ("retry", "ada", ids["failed"], 1),
    ]


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        (
            "/jobs/child/stage",
            {"stage": "gone", "percent": 101, "x": 1},
            {"stage", "percent", "x", "why"},
        ),
        ("/jobs/child/stage", [], {""}),
        ("/jobs/child/drain", {"to": "mars", "act": -1, "why": ""}, {"to", "act", "why"}),
        ("/jobs/child/run", {"data": [], "by": ""}, {"data", "by"}),
        ("/rollback", {"why": "x" * 2001, "act": 2**70}, {"why", "act"}),
        (
            "/runs/bulk",
            {"do": "x", "filter": {"jobs": 1, "limit": 0}},
            {"do", "filter/jobs", "filter/limit", "why"},
        ),
    ],
)
def test_every_misfit_of_a_body_is_named(api: Api, path: str, body: Any, where: set[str]) -> None:
    answer = api.client.post(f"/api{path}", json=body, headers=OPERATOR)
    problem = answer.get_json(force=True)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    expected = {f"#/{name}" if name else "#" for name in where}
    assert {one["pointer"] for one in problem["errors"]} == expected


def test_every_misfit_of_a_query_is_named(api: Api) -> None:
    for query, where in (
        ("limit=0&statu=x&status=odd", {"limit", "statu", "status"}),
        ("job=%00&before=" + "a" * 101, {"job", "before"}),
    ):
        errors = api.get(f"/runs?{query}", 422)["errors"]
        assert {one["parameter"] for one in errors} == where
    assert "given 2 times" in api.get("/runs?job=a&job=b", 422)["detail"]
    twice = '{"stage": "shadow", "stage": "live", "why": "x"}'
    headers = {**OPERATOR, "Content-Type": "application/json"}
    answer = api.client.post("/api/jobs/child/stage", data=twice, headers=headers)
    assert (answer.status_code, "given twice" in answer.text) == (422, True)
    assert api.get("/jobs?x=1", 422)["errors"][0]["parameter"] == "x"


def test_a_console_s_page_calls_it_with_its_session_and_form_token(api: Api) -> None:
    browser = api.site.app.test_client()
    assert log_in(browser).status_code == 303
    body = {"why": "x", "stage": "live", "by": "somebody else"}
    token = {"X-CSRF-Token": csrf(browser, "/console")}
    assert browser.post("/api/jobs/child/stage", json=body, headers=token).status_code == 200
    assert audit.history(api.site.runtime.db, act="stage")[0]["by"] == "grace"


def test_in_local_mode_it_is_open_to_this_machine_and_to_no_other_page(
    sites: Callable[..., Site],
) -> None:
    site = sites(Site)
    client, body = site.app.test_client(), {"why": "x", "stage": "live", "by": "ada"}
    path = "/api/jobs/child/stage"
    for headers in ({"Origin": "http://localhost:9"}, {"Origin": "null"}):
        assert client.post(path, json=body, headers=headers).status_code == 401
    assert client.post(path, data="stage=live").status_code == 415
    for elsewhere in ({"Host": "evil.example"}, {"X-Forwarded-For": "203.0.113.9"}):
        assert client.get("/api/jobs", headers=elsewhere).status_code == 401
    assert client.post(path, json=body, headers={"Origin": "http://localhost"}).status_code == 200
    assert audit.history(site.runtime.db, act="stage")[0]["by"] == "ada"


def test_many_runs_are_retried_batch_by_batch_and_are_one_act(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.site.fill()
    monkeypatch.setattr(bulk, "BATCH", 2)
    with api.site.runtime.db.begin() as connection:
        failed = {"status": "failed", "error": "ValueError: 42", "check_at": None}
        chosen = select(RunRow.id).where(RunRow.job == "noop").limit(5)
        ids = connection.scalars(chosen).all()
        connection.execute(update(RunRow).where(RunRow.id.in_(ids)).values(failed))
    chosen_by: dict[str, Any] = {"job": "noop", "status": "failed", "error": "value"}
    ask: dict[str, Any] = {"do": "retry", "why": "mended", "by": "ada", "filter": chosen_by}
    dry = api.post("/runs/bulk", **ask, dry_run=True)
    assert (dry["matching"], dry["all"], dry["act"]) == (5, True, None)
    first = api.post("/runs/bulk", **ask)
    assert (first["done"], first["refused"]) == (2, 0)
    on = {"act": first["act"], "filter": {**chosen_by, "before": first["older"]}}
    second = api.post("/runs/bulk", **{**ask, **on})
    assert api.post("/runs/bulk", **ask, dry_run=True)["matching"] == 1  # called off by not calling
    on["filter"] = {**chosen_by, "before": second["older"]}
    last = api.post("/runs/bulk", **{**ask, **on})
    assert (second["done"], last["done"], last["older"]) == (2, 1, None)
    assert api.post("/runs/bulk", 422, **{**ask, **on, "by": "eve"})["title"] == "Invalid input"
    [act] = api.get("/history?act=retry")["history"]
    assert (act["job"], act["by"], act["why"], act["count"]) == ("noop", "ada", "mended", 5)
    assert act["detail"] == {"filter": chosen_by}


def test_a_run_that_has_begun_meanwhile_is_not_cancelled_with_those_that_wait(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [dispatch("later", {"name": f"n{number}"}, delay=3600).id for number in range(2)]

    def begun(*asked: Any) -> Any:
        page = search(*asked)
        with api.site.runtime.db.begin() as connection:
            connection.execute(update(RunRow).where(RunRow.id == runs[0]).values(status="running"))
        return page

    monkeypatch.setattr(bulk, "search", begun)
    ask: dict[str, Any] = {"do": "cancel", "why": "not wanted", "filter": {"job": "later"}}
    refused = api.post("/runs/bulk", 422, **ask)
    assert refused["detail"] == "status: to cancel runs, use one of pending, running, waiting"
    ask["filter"]["status"] = "pending"
    went = api.post("/runs/bulk", **ask)
    assert (went["done"], went["refused"]) == (1, 1)
    assert [api.get(f"/runs/{run}")["status"] for run in runs] == ["running", "cancelled"]

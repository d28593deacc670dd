"""The console's pages and what is done with them, over HTTP."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, insert, select, update

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.console.jobs import _ticks
from app.switchyard.cutover import clock, stages
from app.switchyard.cutover.clock import ClockMark
from app.switchyard.cutover.shadow import Parity
from app.switchyard.dispatch import dispatch
from app.switchyard.operations import acts, bulk
from app.switchyard.operations.processes import ProcessRow
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import install
from tests.support.console import HOSTILE, Site, csrf, move, where
from tests.support.waiting import until


def test_a_stage_is_changed_and_a_senseless_one_refused(site: Site, client: FlaskClient) -> None:
    assert 'name="version" value="0"' in client.get("/console/jobs/parent").text
    assert move(client, "ramp", percent="10", version="0") == 303
    change = audit.history(site.runtime.db, act="stage")[0]
    assert (change["job"], change["to"], change["percent"]) == ("parent", "ramp", 10.0)
    assert (change["by"], change["why"]) == ("grace", "a test")
    form = {"csrf": csrf(client, "/console/jobs/parent")}
    for asked, status, says in (
        ({"stage": "ramp", "percent": "10", "why": "x"}, 409, "is already at ramp 10 %"),
        ({"stage": "ramp", "percent": "", "why": "x"}, 409, "a ramp needs a percent"),
        ({"stage": "ramp", "percent": "nan", "why": "x"}, 409, "percent must be 0 to 100"),
        ({"stage": "ramp", "percent": "ten", "why": "x"}, 422, "percent must be a number"),
        ({"stage": "ramp", "percent": "\u0661", "why": "x"}, 422, "percent must be a number"),
        ({"stage": "ramp", "percent": "1_0", "why": "x"}, 422, "percent must be a number"),
        ({"stage": "live", "why": "x", "version": "0"}, 409, "parent was moved meanwhile"),
        ({"stage": "live", "why": "x", "version": "x"}, 422, "version must be a number"),
        ({"stage": "live", "why": "x", "version": "\u0661"}, 422, "version must be a number"),
        ({"stage": "live", "why": "  "}, 409, "say why"),
        ({"stage": "gone", "why": HOSTILE}, 409, "stage must be one of"),
        ({"stage": "complete", "why": "x"}, 409, "cannot go from ramp to complete"),
        ({}, 409, "stage must be one of"),
    ):
        answer = client.post("/console/jobs/parent/stage", data={**form, **asked})
        assert (answer.status_code, says in answer.text) == (status, True), asked
        assert HOSTILE not in answer.text
    assert client.post("/console/jobs/nope/stage", data=form).status_code == 404
    assert len(audit.history(site.runtime.db, act="stage")) == 1


def act(client: FlaskClient, path: str, **form: str) -> tuple[int, str]:
    asked = {"csrf": csrf(client, "/console/runs"), "why": "2 a.m.", **form}
    answer = client.post(f"/console{path}", data=asked)
    return answer.status_code, answer.text


def going_on(page: str) -> dict[str, str]:
    """Returns what the page's own form sends to go on."""
    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', page[page.index('id="moving"') :]))


def test_a_drain_and_a_rollback_go_on_a_batch_a_request(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "BATCH", 2)
    site.fill()  # of the open ones one is a child's
    for number in range(4):
        dispatch("child", {"name": f"d{number}"})
    status, page = act(client, "/jobs/child/drain", to="serverless")
    for moved in ("2", "4"):
        assert going_on(page)["moved"] == moved
        status, page = act(client, "/jobs/child/drain", **going_on(page))
    assert (status, "done</span>" in page, "Go on" in page) == (200, True, False)
    assert "<dt>moved</dt><dd>5</dd>" in page
    page = act(client, "/jobs/child/rollback")[1]
    site.now += timedelta(seconds=2)  # by then every process knows
    while "Go on" in page:
        page = act(client, "/jobs/child/rollback", **going_on(page))[1]
    assert "done</span>" in page
    done = [one for one in audit.history(site.runtime.db) if one["act"] != "stage"]
    assert [(one["act"], one["who"], one["job"], one["count"]) for one in done] == [
        ("rollback", "grace", "child", 5),
        ("drain", "grace", "child", 5),
    ]
    assert act(client, "/rollback")[0] == 200
    assert set(where(site, "five-steps")) == {"legacy"}
    for path, form, status in (
        ("/jobs/child/rollback", {"why": " "}, 422),
        ("/jobs/child/drain", {"moved": "x"}, 422),
        ("/jobs/nope/drain", {}, 404),
    ):
        assert act(client, path, **form)[0] == status, path


def test_a_run_is_started_and_a_key_pinned(site: Site, client: FlaskClient) -> None:
    site.fill()
    assert act(client, "/jobs/noop/run", payload='{"name": "now"}')[0] == 303
    bad = ("{", "[1]", "[" * 100_000)
    twice = ('{"name": "a", "name": "b"}', "given twice")
    unfit = (*((one, "the payload") for one in bad), twice, ('{"name": 1}', "name: Input"))
    for payload, says in unfit:
        status, page = act(client, "/jobs/noop/run", payload=payload)
        assert (status, says in page) == (422, True)
    assert act(client, "/jobs/parent/pin", keys="k1 k2", side="rq")[0] == 303
    assert {pin["key"] for pin in stages.pinned_keys(site.runtime.db, "parent")} == {"k1", "k2"}
    assert act(client, "/jobs/parent/pin", keys="k1", side="nowhere")[0] == 409


def test_a_form_without_what_it_needs_or_with_two_of_it_changes_nothing(
    site: Site, client: FlaskClient
) -> None:
    ids = site.fill()
    acts.stage(site.runtime, "parent", "live", None, By("ada", "x"))
    stages.pin(site.runtime.db, "parent", ["k1"], "rq", By("ada", "x"), site.now)
    row = {"job": "parent", "run_id": "r", "kind": "different", "planned_at": site.now}
    with site.runtime.db.begin() as connection:
        connection.execute(insert(Parity), row | {"differing": 1})
    done = audit.history(site.runtime.db)
    cases: list[tuple[str, dict[str, Any]]] = [
        *(("/jobs/parent/explain", {"id": one}) for one in ("", "0", "7")),
        ("/jobs/nope/explain", {"id": "1"}),
        *(("/jobs/parent/drain", {"to": to}) for to in ("", "up")),
        ("/jobs/parent/drain", {}),
        ("/jobs/parent/pin", {"keys": "k1"}),
        ("/bulk/cancel?status=pending&jbo=parent", {}),
        ("/bulk/cancel?status=pending&job=parent&job=noop", {}),
        ("/jobs/parent/stage", {"stage": ["legacy", "complete"]}),
        ("/jobs/parent/pin", {"keys": " ", "side": "rq"}),
        (f"/runs/{ids['waiting']}/cancel", {"why": ["a", "b"]}),
    ]
    for path, form in cases:
        asked = {"csrf": csrf(client, "/console/runs"), "why": "2 a.m.", **form}
        status = client.post(f"/console{path}", data=asked).status_code
        assert status in (400, 404, 422), (path, form)
    assert audit.history(site.runtime.db) == done


def shown(client: FlaskClient, **asked: str) -> list[str]:
    """Returns the ids that the page of runs shows."""
    return re.findall(r'id="run-([0-9a-f]+)"', client.get("/console/runs", query_string=asked).text)


def test_runs_are_searched(site: Site, client: FlaskClient) -> None:
    ids = site.fill()
    for words, run in (
        (ids["failed"], "failed"),
        ("order-1042", "failed"),
        ("error:always status:failed", "failed"),
        ("payload.name:later", "waiting"),
        ("job:sleeper side:rq since:7d", "cancelled"),
    ):
        assert shown(client, q=words) == [ids[run]], words
    assert shown(client, q="noop-7 since:1m") == []
    assert len(shown(client, job="noop")) == 50
    for wrong in ('error:"', "since:yesterday", "status:odd", "stage:ramp2"):
        page = client.get("/console/runs", query_string={"q": wrong})
        assert (page.status_code, 'role="alert"' in page.text) == (422, True), wrong


def test_many_runs_are_retried_and_exported_by_filter(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fill()
    monkeypatch.setattr(bulk, "BATCH", 2)
    for number in range(4):
        dispatch("hopeless", {"name": f"b{number}"}, key=f"=b{number}")
    for _ in range(4):
        site.work()
    assert "Retry all of these" in client.get("/console/runs?status=failed").text
    assert "all of these" not in client.get("/console/runs?status=succeeded").text
    assert "Retry 5 runs" in client.get("/console/bulk/retry?status=failed").text
    assert client.get("/console/bulk/retry?status=running").status_code == 422
    lines = client.get("/console/runs.csv?q=status:failed").text.splitlines()
    assert (len(lines), sum("'=b" in line for line in lines)) == (6, 4)
    exported = client.get("/console/runs.json?status=failed").get_json(force=True)
    assert {run["key"] for run in exported} == {"=b3", "=b2", "=b1", "=b0", "order-1042"}
    path = "/bulk/retry?status=failed"
    page = act(client, path, most="5")[1]
    assert 'value="2" max="5"' in page
    while "Go on" in page:
        page = act(client, path, **going_on(page))[1]
    assert "<dt>retried</dt><dd>5" in page
    assert shown(client, status="failed") == []
    assert act(client, path, why="")[0] == 422
    assert act(client, path, before="\0")[0] == 422


def test_a_filter_by_age_is_the_same_for_every_batch(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    install(site.runtime)
    for number in range(4):
        dispatch("later", {"name": f"n{number}"}, delay=3600)
    site.now += timedelta(minutes=4)
    path = "/bulk/cancel?status=pending&q=since:5m"
    page = act(client, path)[1]
    while "Go on" in page:
        site.now += timedelta(minutes=2)
        page = act(client, path, **going_on(page))[1]
    assert "<dt>cancelled</dt><dd>4" in page


def test_the_guardrail_is_heard_and_seen(site: Site, client: FlaskClient) -> None:
    site.fill()
    page = client.get("/console/jobs/parent").text
    assert "it judges from 30 runs a side on" in page
    assert "rq: 0 of 1 (0.0 %) failed" in page
    assert "it judges" not in client.get("/console/jobs/noop").text
    assert "The guardrail moved" not in client.get("/console").text
    db, why = site.runtime.db, f"failed runs {HOSTILE}"
    stages.set_stage(db, "parent", "legacy", None, By("guardrail", why), site.now)
    text = client.get("/console").text
    assert "The guardrail moved" in text
    assert HOSTILE not in text
    site.now += timedelta(hours=25)
    assert "The guardrail moved" not in client.get("/console").text


def test_trouble_comes_first_with_what_to_do(site: Site, client: FlaskClient) -> None:
    assert "nothing needs you" in client.get("/console").text
    site.fill()
    site.lose("inngest")
    dispatch("hopeless", {"name": "x"})
    for _ in range(4):
        site.work()
    site.now += timedelta(minutes=2)
    with site.runtime.db.autocommit() as connection:
        gone = {"id": "1", "kind": "worker", "host": "h", "pid": 7, "version": "1", "doing": ""}
        times = {"started_at": site.now, "seen_at": site.now - timedelta(minutes=3)}
        connection.execute(insert(ProcessRow).values(**gone, **times))
    # A side is looked at beside the request, which waits for it but shortly.
    until(lambda: "does not answer:" in client.get("/console").text)
    text = client.get("/console").text
    for says in (
        "inngest does not answer: inngest: nobody there. It has 0 open runs.",
        "No worker process is alive: the last one, 7 on h",
        "hopeless fails on rq: 1 of 1 run of the last hour (100.0 %).",
        "Look at the errors, fix the cause, and retry the runs.",
    ):
        assert says in text
    assert text.index("does not answer") < text.index("five-steps")


def test_every_value_is_escaped(site: Site, client: FlaskClient) -> None:
    ids = site.fill()
    run = dispatch("child", {"name": "x"}, key=HOSTILE)
    for path in ("", "/runs", "/history", "/jobs/five-steps", "/jobs/hopeless"):
        text = client.get(f"/console{path}").text
        assert text.count("<script") == text.count('<script src="/console/static/')
        assert "<img" not in text
    page = client.get(f"/console/runs/{ids['failed']}").text
    assert page.count("<summary><b>RuntimeError</b>") == 3
    assert "raise RuntimeError" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;script&gt;alert(1)" in client.get(f"/console/runs/{run.id}").text


def test_pages_by_key_show_each_run_once(site: Site, client: FlaskClient) -> None:
    site.fill()
    for status in (None, "failed", "succeeded", "pending"):
        seen: list[str] = []
        path = f"/console/runs?status={status or ''}"
        while path:
            text = client.get(path).text
            seen += re.findall(r'href="/console/runs/([0-9a-f]+)"', text)
            older = re.search(r'href="([^"]+)">Older', text)
            path = older[1].replace("&amp;", "&") if older else ""
        chosen = select(RunRow.id).order_by(RunRow.id.desc())
        if status is not None:
            chosen = chosen.where(RunRow.status == status)
        assert seen == [one for (one,) in site.runtime.db.rows(chosen)]
        assert seen


def test_runs_are_retried_and_cancelled(site: Site, client: FlaskClient) -> None:
    ids = site.fill()
    for run, deed, then in (("failed", "retry", "pending"), ("waiting", "cancel", "cancelled")):
        assert act(client, f"/runs/{ids[run]}/{deed}", why="")[0] == 303
        assert site.runtime.db.value(select(RunRow.status).where(RunRow.id == ids[run])) == then
    status, page = act(client, f"/runs/{ids['done']}/retry")
    assert (status, "is succeeded and cannot be retried" in page) == (409, True)
    assert act(client, f"/runs/{ids['done']}/cancel")[0] == 409
    assert act(client, f"/runs/{ids['done']}/delete")[0] == 404


def test_wrong_addresses_say_so(site: Site, client: FlaskClient) -> None:
    for path, status in (
        *(("/history?before=x", 422), ("/history?before=%D9%A3", 422), ("/history?before=7", 200)),
        *(("/runs?since=%D9%A3h", 422), ("/runs?job=%00", 422), ("/runs/zz", 404)),
        *(("/runs?before=" + "a" * 101, 422), ("/runs?jbo=a", 422), ("/runs?job=a&job=b", 422)),
        *(("/runs/" + "0" * 26, 404), ("/jobs/nope", 404), ("/runs?status=odd&backend=odd", 422)),
    ):
        assert client.get(f"/console{path}").status_code == status, path
    assert site.runtime.db.value(select(func.count()).select_from(RunRow)) == 0


def test_the_relay_is_said_to_be_behind(site: Site, client: FlaskClient) -> None:
    site.fill()
    assert "The relay is behind" not in client.get("/console").text
    dispatch("noop", {"name": "late"})
    site.now += site.runtime.store.check * 60
    assert "The relay is behind: it should have looked at a run" in client.get("/console").text


def test_a_clock_is_missed_where_a_tick_is(tmp_path: Path) -> None:
    """Between two ticks of Inngest's or QStash's cron nobody looks."""
    site = Site(f"sqlite:///{tmp_path / 'test.db'}", switchyard_jobs="app.switchyard.maintenance")
    site.now, client = datetime(2031, 1, 1, 12, tzinfo=UTC), site.app.test_client()
    clock.begin_marks(site.runtime.db, ["prune-ledger"], site.now)
    site.now += timedelta(hours=16)
    assert "No clock" not in client.get("/console/").text
    site.now += timedelta(hours=1)
    says = "No clock has proposed the tick of prune-ledger at 2031-01-02 04:20 UTC."
    assert says in client.get("/console/").text
    site.runtime.db.dispose()


def test_missed_ticks_are_counted_up_to_those_that_are_made_up(site: Site) -> None:
    minutely = replace(site.runtime.catalogue["noop"], schedule="* * * * *")
    now = site.now.replace(second=30)
    for mark, missed in ((timedelta(minutes=10), (9, False)), (timedelta(days=30), (500, True))):
        marks = update(ClockMark).values(seen_until=now - mark)
        clock.begin_marks(site.runtime.db, ["noop"], now)
        with site.runtime.db.begin() as connection:
            connection.execute(marks)
        ticks = _ticks(site.runtime, minutely, now)
        assert (ticks["missed"], ticks["and_more"]) == missed


def test_a_service_that_no_job_uses_is_no_trouble(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path / 'test.db'}", switchyard_jobs="app.switchyard.maintenance")
    site.lost |= {"inngest", "qstash"}
    client = site.app.test_client()
    until(lambda: "inngest does not answer" in client.get("/console/").text)
    assert "qstash" not in client.get("/console/").text
    site.runtime.db.dispose()

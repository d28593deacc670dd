"""The commands of `flask --app app`: their answers, their exit codes, and how they end."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from flask import Flask, current_app, g
from sqlalchemy import insert, select, update

from app import create_app
from app.local.earnings import seed
from app.platform.config import ROOT, Settings
from app.switchyard import runtime
from app.switchyard.clock import iso, utcnow
from app.switchyard.commands import output, run_here
from app.switchyard.commands.output import settings_checked
from app.switchyard.cutover import clock, guardrail
from app.switchyard.cutover.shadow import Parity
from app.switchyard.cutover.status import FAILED, OPEN
from app.switchyard.db import Database
from app.switchyard.errors import LeaseLost, SettingsError
from app.switchyard.runs import operate
from app.switchyard.runs import relay as relaying
from app.switchyard.runs.backend import Delivery, End
from app.switchyard.runs.claim import ClaimRequest, claim_run, claim_uncapped
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status, StepStatus
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runtime import Runtime
from tests.support import cli_jobs
from tests.support.cli_jobs import marks
from tests.support.forks import Forked
from tests.support.tables import create_all, every_table
from tests.support.waiting import PATIENCE_SECONDS, until

CLOSED = "redis://127.0.0.1:1/0"
JOBS = "tests.support.cli_jobs"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own, with its tables."""
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    db = Database(url)
    create_all(db.engine)
    db.dispose()
    return url


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flask]]:
    """Makes apps, and leaves the process as it was."""
    monkeypatch.delenv("USE_INNGEST", raising=False)
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setattr(runtime, "_own", None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    made: list[Flask] = []

    def build(url: str, **settings: Any) -> Flask:
        values: dict[str, Any] = {
            "redis_url": CLOSED,
            "switchyard_jobs": JOBS,
            "check_seconds": 0.2,
        }
        app = create_app(Settings(database_url=url, **(values | settings)))
        made.append(app)
        return app

    yield build
    root.handlers[:] = handlers
    root.setLevel(level)
    for app in made:
        app.extensions["switchyard"].db.dispose()


class Cli:
    """One app's commands, run in this process."""

    def __init__(self, app: Flask) -> None:
        self.made: Runtime = app.extensions["switchyard"]
        self._runner = app.test_cli_runner()

    def __call__(self, *args: str) -> Result:
        result = self._runner.invoke(args=list(args))
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        result = self(*args, "--json")
        assert result.exit_code == code, result.stderr
        return json.loads(result.stdout)

    def refused(self, *args: str, code: int = 2) -> str:
        """The one line that a refusal is."""
        result = self(*args)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    def status(self, run_id: str) -> tuple[str, int]:
        with self.made.db.autocommit() as connection:
            row = connection.execute(select(R.status, R.epoch).where(R.id == run_id)).one()
            return (row.status, row.epoch)

    def marks(self) -> dict[str, int]:
        return marks(self.made.db)

    def perform(self, run_id: str, holder: str = "another") -> End:
        epoch = self.status(run_id)[1]
        return self.made.engine.perform(run_id, epoch, Delivery(holder)).end


@pytest.fixture
def cli(build: Callable[..., Flask], url: str) -> Cli:
    return Cli(build(url))


# --- jobs ---------------------------------------------------------------------------------------


def row_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def test_jobs_list_has_the_fields_users_script_against(cli: Cli) -> None:
    assert row_of(cli.json("jobs", "list"), "cli-plain") == {
        "name": "cli-plain",
        "event": "cli.plain",
        "schedule": "0 9 * * *",
        "queue": "cli",
        "attempts": 5,
        "concurrency": None,
        "serverless": "inngest",
        "stage": "legacy",
        "percent": None,
        "backend": "rq",
        "file": "tests/support/cli_jobs.py",
    }
    assert "cli-plain" in cli("jobs", "list").stdout


@pytest.mark.parametrize(
    ("job", "stage", "switch", "backend"),
    [
        ("cli-plain", ["live"], "true", "inngest"),
        ("cli-refuser", ["live"], "true", "qstash"),
        ("cli-plain", ["live"], "false", "rq"),
        ("cli-plain", ["ramp", "--percent", "99"], "true", "rq"),
        ("cli-plain", ["ramp", "--percent", "100"], "true", "inngest"),
    ],
)
def test_jobs_list_says_where_a_new_run_goes(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    stage: list[str],
    switch: str,
    backend: str,
) -> None:
    monkeypatch.setenv("USE_INNGEST", switch)
    cli.json("cutover", "stage", job, *stage, "--why", "test")
    row = row_of(cli.json("jobs", "list"), job)
    assert (row["stage"], row["backend"]) == (stage[0], backend)


def test_jobs_show(cli: Cli) -> None:
    shown = cli.json("jobs", "show", "cli-plain")
    assert shown["next"].endswith("T09:00:00.000Z")
    assert "waitSeconds" in shown["payload"]["properties"]
    assert "cli.plain" in cli("jobs", "show", "cli-plain").stdout


def test_dispatch_with_the_queue_away_leaves_the_run_pending_and_says_so(cli: Cli) -> None:
    result = cli("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "k", "--json")
    run = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(run) >= {"id", "job", "key", "backend", "reason", "status", "created"}
    assert (run["key"], run["status"], run["created"], run["told"]) == ("k", "pending", True, False)
    assert "stays pending" in result.stderr
    assert cli.status(run["id"]) == (Status.PENDING, 1)
    again = cli("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "k", "--json")
    assert json.loads(again.stdout) | {"created": True} == run
    assert "was known" in again.stderr


def test_dispatch_later(cli: Cli) -> None:
    late = cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--delay", "3600")
    at = "2031-05-04T11:00:00+02:00"
    later = cli.json("jobs", "dispatch", "cli-plain", '{"name": "b"}', "--at", at)
    due = cli.json("runs", "show", late["id"])["due_at"]
    assert str(iso(utcnow() + timedelta(minutes=59))) < due
    assert cli.json("runs", "show", later["id"])["due_at"] == "2031-05-04T09:00:00.000Z"


WRONG_USES = [
    (["jobs", "dispatch", "nope"], "no job 'nope'"),
    (["jobs", "show", "nope"], "no job 'nope'"),
    (["jobs", "run", "nope"], "no job 'nope'"),
    (["jobs", "dispatch", "cli-plain", "{}"], "name: Field required"),
    (["jobs", "dispatch", "cli-plain", '{"name": 1}'], "name: Input should be a valid string"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a", "extra": 1}'], "extra"),
    (["jobs", "dispatch", "cli-plain", '{"name": NaN}'], "name"),
    (["jobs", "dispatch", "cli-plain", "{name"], "not JSON"),
    (["jobs", "dispatch", "cli-plain", "[" * 100_000], "not JSON"),
    (["jobs", "run", "cli-plain", "{name"], "not JSON"),
    (["jobs", "run", "cli-plain", "{}"], "name: Field required"),
    (["jobs", "run", "cli-plain", '{"name": "a"}', "--plan"], "cannot say beforehand"),
    (["jobs", "run", "cli-planned", '{"name": "a"}', "--plan", "--key", "k"], "--plan or --key"),
    (["jobs", "run", "cli-planned", "{}", "--plan"], "name: Field required"),
    (["jobs", "run", "cli-planned", "{name", "--plan"], "not JSON"),
    (["jobs", "run", "nope", "--plan"], "no job 'nope'"),
    (["jobs", "dispatch", "cli-plain", '["a"]'], "must be a JSON object"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--delay", "-1"], "delay"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--delay", "nan"], "delay"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--delay", "1e300"], "delay"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--at", "noon"], "--at"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--at", "2031-05-04"], "no time zone"),
    (
        [
            "jobs",
            "dispatch",
            "cli-plain",
            '{"name":"a"}',
            "--delay",
            "1",
            "--at",
            "2031-01-01Z",
        ],
        "--at",
    ),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", ""], "key must have"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "x" * 256], "key must have"),
    (["jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "\udcff"], "UTF-8"),
    (["runs", "show", "nope"], "no run 'nope'"),
    (["runs", "retry", "nope"], "no run 'nope'"),
    (["runs", "cancel", "nope"], "no run 'nope'"),
    (["runs", "list", "--job", "nope"], "no job 'nope'"),
    (["cutover", "history", "nope"], "no job 'nope'"),
    (["cutover", "stage", "nope", "live", "--why", "w"], "no job 'nope'"),
    (["cutover", "stage", "live", "--why", "w"], "give a job and a stage"),
    (["cutover", "stage", "cli-plain", "live", "--all", "--why", "w"], "--all and a stage"),
    (["cutover", "stage", "cli-plain", "nope", "--why", "w"], "stage must be one of"),
    (["cutover", "stage", "cli-plain", "live", "--why", " "], "say why"),
    (["cutover", "stage", "cli-plain", "ramp", "--why", "w"], "needs a percent"),
    (["cutover", "stage", "cli-plain", "ramp", "--percent", "0", "--why", "w"], "pinned keys"),
    (["cutover", "stage", "cli-plain", "live", "--percent", "5", "--why", "w"], "percent"),
    (["cutover", "stage", "cli-plain", "ramp", "--percent", "101", "--why", "w"], "0 to 100"),
    (["cutover", "stage", "cli-plain", "ramp", "--percent", "nan", "--why", "w"], "0 to 100"),
    (["cutover", "stage", "cli-plain", "live", "--why", "w", "--by", ""], "--by"),
    (["db", "upgrade", "nope"], "say --branch switchyard or platform"),
    (["db", "upgrade", "nope", "--branch", "platform"], "nope"),
    (["db", "downgrade", "-1"], "say --branch"),
    (["db", "upgrade", "--branch", "nope"], "no branch 'nope'"),
]


def test_wrong_use_is_one_line_and_changes_nothing(cli: Cli) -> None:
    for args, says in WRONG_USES:
        assert says in cli.refused(*args), args
    assert cli.json("runs", "list") == []
    assert cli.json("cutover", "history") == []


def test_what_click_itself_refuses_ends_with_2(cli: Cli) -> None:
    for args in (
        ["cutover", "stage", "cli-plain", "live"],
        ["jobs", "dispatch"],
        ["jobs", "dispatch", "cli-plain", "{}", "--delay", "soon"],
        ["runs", "list", "--status", "nope"],
        ["runs", "list", "--limit", "0"],
        ["nope"],
    ):
        result = cli(*args)
        assert (result.exit_code, result.stdout) == (2, ""), args
        assert "Error: " in result.stderr


def test_a_key_with_another_payload_is_refused(cli: Cli) -> None:
    cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "k")
    for verb in ("dispatch", "run"):
        line = cli.refused("jobs", verb, "cli-plain", '{"name": "b"}', "--key", "k")
        assert "with another payload" in line
    assert len(cli.json("runs", "list")) == 1


# --- jobs run -----------------------------------------------------------------------------------


def test_run_does_the_job_here_with_its_retries(cli: Cli) -> None:
    payload = '{"name": "a", "failures": 1}'
    result = cli("jobs", "run", "cli-plain", payload, "--key", "k", "--json")
    run = json.loads(result.stdout)
    assert (result.exit_code, run["status"], run["created"]) == (0, "succeeded", True)
    assert run["result"] == {"second": "a/second"}
    assert "failed on purpose; tried again at" in result.stderr
    assert cli.marks() == {"a/first": 1, "a/try": 2, "a/second": 1}
    assert cli.perform(run["id"]) is End.NOT_MINE

    again = cli("jobs", "run", "cli-plain", payload, "--key", "k", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, run | {"created": False})
    assert "is succeeded" in again.stderr


def test_each_slice_has_an_app_context_of_its_own(build: Callable[..., Flask], url: str) -> None:
    cli = Cli(build(url, switchyard_jobs="tests.support.jobs"))
    create_all(cli.made.db.engine)
    assert cli.json("jobs", "run", "surroundings", '{"name": "a"}')["result"] == ["app", True]


def test_a_plan_says_what_a_run_would_do_and_writes_nothing(cli: Cli) -> None:
    began = utcnow()
    for _ in range(2):
        plan = cli.json("jobs", "run", "cli-planned", '{"name": "a", "waitSeconds": 1.5}', "--plan")
        assert began.isoformat() <= plan["at"] <= utcnow().isoformat()
        assert plan == {
            "at": plan["at"],
            "found": 1,
            "marks": [{"what": "a", "waits": 1.5}, {"what": "b", "why": "[b]no"}],
            "none": [],
        }
    shown = cli("jobs", "run", "cli-planned", '{"name": "a"}', "--plan")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["found", "1"] in lines
    assert ["marks", "2"] in lines
    assert ["none", "0"] in lines
    assert [line for line in lines if len(line) == 3] == [
        ["what", "waits", "why"],
        ["a", "0", "-"],
        ["b", "-", "[b]no"],
    ]
    assert (cli.marks(), cli.json("runs", "list")) == ({}, [])
    assert cli.json("jobs", "run", "cli-planned", '{"name": "a"}')["result"] == "a"


def test_the_plan_of_a_pay_day(build: Callable[..., Flask], url: str) -> None:
    cli = Cli(build(url, switchyard_jobs="app.platform.payouts.jobs"))
    made = seed(cli.made.db, creators=30, seed=1, now=utcnow(), payable=22)
    before = _dump(cli.made.db)
    args = ("jobs", "run", "process-payouts", '{"payoutDate": "2025-01-15"}', "--plan")
    plan = cli.json(*args)
    assert len(plan["pay"]) == made.payable == 22
    assert plan["leftOutTotals"] == made.left_out
    assert {row["currency"]: row["amount"] for row in plan["totals"]} == made.payable_amounts
    shown = cli(*args).stdout
    assert all(one["creatorId"] in shown for one in plan["pay"] + plan["leftOut"])
    assert _dump(cli.made.db) == before


def _dump(db: Database) -> dict[str, list[str]]:
    with db.autocommit() as connection:
        return {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in every_table().items()
        }


def test_run_that_fails_ends_with_1(cli: Cli) -> None:
    run = cli.json("jobs", "run", "cli-refuser", '{"name": "a", "failures": 1}', code=1)
    assert run["status"] == "failed"
    assert "never" in run["error"]
    result = cli("runs", "list")
    assert "\x1b" not in result.stdout
    assert "never [red]" in result.stdout


def test_run_does_the_children_here_and_sleeps(cli: Cli) -> None:
    run = cli.json("jobs", "run", "cli-parent", '{"name": "p", "waitSeconds": 0.3}')
    assert (run["result"], run["children"]) == ({"succeeded": 3}, {"succeeded": 3})
    assert cli.marks()["p/after"] == 1
    assert {row["parent"] for row in cli.json("runs", "list")} == {None, run["id"]}


def test_run_goes_on_with_children_nobody_was_told_of(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "cli-parent", '{"name": "p"}', "--key", "k")
    assert cli.perform(begun["id"]) is End.WAIT
    run = cli.json("jobs", "run", "cli-parent", '{"name": "p"}', "--key", "k")
    assert (run["id"], run["created"], run["result"]) == (begun["id"], False, {"succeeded": 3})
    assert {name: n for name, n in cli.marks().items() if n > 1} == {}


def test_run_waits_for_what_another_process_holds(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()

    def say(text: str) -> None:
        output.say(text)
        if "another process is doing it" in text:
            waits.set()

    monkeypatch.setattr(run_here, "say", say)
    # The other one is not done before this one waits for it.
    held = SimpleNamespace(sleep=lambda _: waits.wait(PATIENCE_SECONDS))
    monkeypatch.setattr(cli_jobs, "time", held)
    payload = '{"name": "a", "waitSeconds": 1}'
    begun = cli.json("jobs", "dispatch", "cli-plain", payload, "--key", "k")
    worker = threading.Thread(target=cli.perform, args=(begun["id"],))
    worker.start()
    until(lambda: cli.status(begun["id"])[0] != Status.PENDING)
    result = cli("jobs", "run", "cli-plain", payload, "--key", "k", "--json")
    worker.join()
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "succeeded")
    assert waits.is_set()
    assert "another process is doing it" in result.stderr
    assert cli.marks() == {"a/first": 1, "a/try": 1, "a/second": 1}


def test_run_takes_over_from_a_process_that_died(build: Callable[..., Flask], url: str) -> None:
    cli = Cli(build(url, lease_seconds=0.5))
    begun = cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "k")
    with cli.made.db.autocommit() as connection:
        now = utcnow()
        request = ClaimRequest(begun["id"], 1, "dead", now, now + cli.made.store.lease)
        dead = claim_uncapped(connection, request)
    assert dead is not None
    run = cli.json("jobs", "run", "cli-plain", '{"name": "a"}', "--key", "k")
    assert (run["id"], run["status"]) == (begun["id"], "succeeded")


# --- runs ---------------------------------------------------------------------------------------


def test_runs_list_newest_first_and_filtered(cli: Cli) -> None:
    first = cli.json("jobs", "run", "cli-plain", '{"name": "a"}')["id"]
    time.sleep(0.002)
    second = cli.json("jobs", "dispatch", "cli-parent", '{"name": "b"}')["id"]
    rows = cli.json("runs", "list")
    assert [row["id"] for row in rows] == [second, first]
    assert list(rows[0]) == [
        *("id", "job", "key", "backend", "reason", "stage", "status", "epoch", "attempt"),
        *("parent", "created_at", "started_at", "ended_at", "error"),
    ]
    assert rows[1]["created_at"].endswith("Z")
    assert rows[0]["started_at"] is None

    def ids(*filters: str) -> list[str]:
        return [row["id"] for row in cli.json("runs", "list", *filters)]

    assert ids("--job", "cli-plain") == ids("--status", "succeeded") == [first]
    assert ids("--limit", "1") == [second]
    assert ids("--backend", "inngest") == ids("--job", "cli-plain", "--status", "failed") == []
    assert first in cli("runs", "list").stdout


def test_runs_show_has_payload_result_and_steps(cli: Cli) -> None:
    run = cli.json("jobs", "run", "cli-plain", '{"name": "a"}')
    shown = cli.json("runs", "show", run["id"])
    assert (shown["payload"], shown["result"]) == ({"name": "a"}, {"second": "a/second"})
    assert [(step["name"], step["status"]) for step in shown["steps"]] == [
        ("first", "done"),
        ("second", "done"),
    ]
    assert set(shown["steps"][0]) == {
        *("name", "status", "attempts", "backend", "error", "updated_at")
    }
    assert "second" in cli("runs", "show", run["id"]).stdout


def test_retry_goes_on_from_the_done_steps_with_fresh_tries(cli: Cli) -> None:
    payload = '{"name": "a", "failures": 1}'
    run = cli.json("jobs", "run", "cli-refuser", payload, "--key", "k", code=1)
    epoch = cli.status(run["id"])[1]
    result = cli("runs", "retry", run["id"], "--json")
    row = json.loads(result.stdout)
    assert (row["status"], row["epoch"], row["ended_at"]) == ("pending", epoch + 1, None)
    assert row["error"] is None
    assert "stays pending" in result.stderr
    steps = {step["name"]: step for step in cli.json("runs", "show", run["id"])["steps"]}
    assert (steps["first"]["status"], steps["first"]["attempts"]) == ("done", 1)
    assert (steps["refuse"]["status"], steps["refuse"]["attempts"]) == ("retrying", 0)
    assert cli.json("jobs", "run", "cli-refuser", payload, "--key", "k")["status"] == "succeeded"
    assert cli.marks() == {"a/first": 1, "a": 2}
    assert "is succeeded and cannot be retried" in cli.refused("runs", "retry", run["id"])


def test_an_open_run_is_not_retried_and_an_ended_one_not_cancelled(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}', "--key", "k")
    assert "is pending" in cli.refused("runs", "retry", begun["id"])
    cli.json("jobs", "run", "cli-plain", '{"name": "a"}', "--key", "k")
    assert "is succeeded" in cli.refused("runs", "cancel", begun["id"])


def test_cancelled_before_it_began_it_never_begins(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}')
    row = cli.json("runs", "cancel", begun["id"])
    assert (row["status"], row["epoch"]) == ("cancelled", 2)
    assert row["ended_at"] is not None
    assert cli.made.engine.perform(begun["id"], 1, Delivery("late")).end is End.NOT_MINE
    time.sleep(0.3)
    assert sweep(cli.made.store).sent == 0
    assert "is cancelled" in cli.refused("runs", "cancel", begun["id"])
    assert cli.json("runs", "retry", begun["id"])["status"] == "pending"


def test_a_holders_next_write_is_refused_once_its_run_is_cancelled(cli: Cli) -> None:
    store = cli.made.store
    begun = cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}')
    now = utcnow()
    request = ClaimRequest(begun["id"], 1, "holder", now, now + store.lease)
    claimed = claim_run(store, request, Delivery("holder"))
    assert isinstance(claimed, ClaimedRun)
    cli.json("runs", "cancel", begun["id"])
    with pytest.raises(LeaseLost), store.db.session() as tx:
        claimed.end_step(tx, "first", StepStatus.DONE, 1)
    with pytest.raises(LeaseLost):
        claimed.end(Status.SUCCEEDED, None, None)


def test_cancel_takes_the_children_along_and_retry_brings_them_back(cli: Cli) -> None:
    payload = '{"name": "p"}'
    begun = cli.json("jobs", "dispatch", "cli-parent", payload, "--key", "k")
    cli.perform(begun["id"])
    children = [row["id"] for row in cli.json("runs", "list", "--job", "cli-plain")]
    cli.json("runs", "cancel", children[0])
    assert cli.perform(children[1]) is End.DONE
    result = cli("runs", "cancel", begun["id"])
    assert (result.exit_code, result.stderr) == (0, "1 open runs below it were cancelled too\n")
    assert cli.status(children[2])[0] == Status.CANCELLED

    assert "1 runs that were cancelled with it" in cli("runs", "retry", begun["id"]).stderr
    run = cli.json("jobs", "run", "cli-parent", payload, "--key", "k")
    assert run["result"] == {"cancelled": 1, "succeeded": 2}


def test_a_cancel_that_was_cut_short_is_finished_by_the_next(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "cli-parent", '{"name": "p"}')
    cli.perform(begun["id"])
    with cli.made.db.begin() as connection:
        half = update(R).where(R.id == begun["id"])
        connection.execute(half.values(status=Status.CANCELLED, check_at=None, epoch=R.epoch + 1))
    assert operate.cancel(cli.made.store, begun["id"]) == 3
    assert "is cancelled" in cli.refused("runs", "cancel", begun["id"])


def test_cancelling_the_last_child_wakes_its_parent(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "cli-parent", '{"name": "p", "children": 1}')
    cli.perform(begun["id"])
    epoch = cli.status(begun["id"])[1]
    child = cli.json("runs", "list", "--job", "cli-plain")[0]["id"]
    cli.json("runs", "cancel", child)
    assert cli.status(begun["id"]) == (Status.WAITING, epoch + 1)
    assert cli.perform(begun["id"]) is End.WAIT
    assert "nap" in {step["name"] for step in cli.json("runs", "show", begun["id"])["steps"]}


# --- cutover ------------------------------------------------------------------------------------


def test_stage_is_on_record_and_says_where_it_stands(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    args = ("cutover", "stage", "cli-plain", "ramp", "--percent", "12.5", "--why", "try it")
    result = cli(*args, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "use_inngest": False,
        "jobs": [
            {
                "name": "cli-plain",
                "stage": "ramp",
                "percent": 12.5,
                "open": {"rq": 0, "inngest": 0, "qstash": 0},
                "overdue": {"rq": 0, "inngest": 0, "qstash": 0},
                "failed_24h": {"rq": 0, "inngest": 0, "qstash": 0},
                "parity": {"compared": 0, "different": 0, "unexplained": 0, "plan": False},
            }
        ],
    }
    assert "USE_INNGEST is not true" in result.stderr
    assert "already stands at" in cli.refused(*args)
    cli.json("cutover", "stage", "cli-plain", "legacy", "--why", "back", "--by", "bob")
    back, there = cli.json("cutover", "history", "cli-plain")
    assert (back["from"], back["to"], back["percent"], back["by"]) == (
        "ramp",
        "legacy",
        None,
        "bob",
    )
    assert there | {"at": ""} == {
        "at": "",
        "job": "cli-plain",
        "from": "legacy",
        "to": "ramp",
        "percent": 12.5,
        "by": "ada",
        "why": "try it",
        "forced": False,
    }
    assert len(cli.json("cutover", "history", "--limit", "1")) == 1
    assert "try it" in cli("cutover", "history").stdout


def test_stage_all_moves_those_that_stand_elsewhere(cli: Cli) -> None:
    cli.json("cutover", "stage", "cli-plain", "live", "--why", "first")
    after = cli.json("cutover", "stage", "--all", "live", "--why", "all")
    assert {job["stage"] for job in after["jobs"]} == {"live"}
    assert len(cli.json("cutover", "history")) == len(after["jobs"])
    again = cli("cutover", "stage", "--all", "live", "--why", "all")
    assert (again.exit_code, "nothing was changed" in again.stderr) == (0, True)


def test_a_job_goes_all_the_way_through_the_gate(cli: Cli) -> None:
    stage = ("cutover", "stage", "cli-plain")
    no_plan = cli(*stage, "shadow", "--why", "w")
    assert "cli-plain has no plan: nothing of it is compared" in no_plan.stderr
    assert "no plan" in no_plan.stdout
    assert "no plan" not in cli("cutover", "stage", "cli-planned", "shadow", "--why", "w").stderr
    assert "it comes after live" in cli.refused(*stage, "complete", "--why", "w")
    assert "--force is for complete" in cli.refused(*stage, "live", "--why", "w", "--force")
    cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}')
    cli.json(*stage, "live", "--why", "w")
    line = cli.refused(*stage, "complete", "--why", "w", code=1)
    assert "1 open runs on the old side (cutover drain cli-plain --to serverless)" in line
    cli.json(*stage, "complete", "--why", "w", "--force")
    (last, *_) = cli.json("cutover", "history", "cli-plain")
    assert (last["to"], last["forced"]) == ("complete", True)
    assert "forced past: 1 open runs" in cli("cutover", "history", "cli-plain").stdout
    assert "back to live" in cli.refused(*stage, "shadow", "--why", "w")
    cli.json(*stage, "legacy", "--why", "it is 2 a.m.")
    assert "signs for itself" in cli.refused(*stage, "live", "--why", "w", "--by", "guardrail")


def test_stage_all_says_which_stay(cli: Cli) -> None:
    cli.json("cutover", "stage", "cli-plain", "live", "--why", "w")
    cli.json("jobs", "dispatch", "cli-refuser", '{"name": "a"}')
    cli.json("cutover", "stage", "cli-refuser", "live", "--why", "w")
    every = cli("cutover", "stage", "--all", "complete", "--why", "w")
    assert every.exit_code == 1
    assert "cli-refuser is not complete" in every.stderr
    stages_now = {job["name"]: job["stage"] for job in cli.json("cutover", "status")["jobs"]}
    assert (stages_now["cli-plain"], stages_now["cli-refuser"]) == ("complete", "live")


def test_pins(cli: Cli) -> None:
    pin = ("cutover", "pin", "cli-plain", "ana", "bo", "--to", "serverless", "--why", "first")
    assert [row["key"] for row in cli.json(*pin, "--by", "ada")] == ["ana", "bo"]
    assert "nothing was changed" in cli(*pin).stderr
    (left,) = cli.json("cutover", "unpin", "cli-plain", "bo", "--why", "enough")
    assert left | {"at": ""} == {
        "job": "cli-plain",
        "key": "ana",
        "side": "serverless",
        "at": "",
        "by": "ada",
        "why": "first",
    }
    assert cli.json("cutover", "pins") == cli.json("cutover", "pins", "cli-plain") == [left]
    assert "ana" in cli("cutover", "pins").stdout
    assert "no job" in cli.refused("cutover", "pin", "nope", "a", "--to", "rq", "--why", "w")
    assert "say why" in cli.refused("cutover", "unpin", "cli-plain", "ana", "--why", " ")
    assert cli("cutover", "pin", "cli-plain", "a", "--to", "up", "--why", "w").exit_code == 2


def test_the_cost_looks_no_further_back_than_steps_are_kept(cli: Cli) -> None:
    assert cli.json("cutover", "cost", "--days", "90")["days"] == 90
    assert "at most 90" in cli.refused("cutover", "cost", "--days", "91")


def test_parity_lists_differences_and_takes_explanations(cli: Cli) -> None:
    found = '[{"field":"amount","live":5,"planned":7}]'
    told = {"job": "cli-planned", "planned_at": utcnow(), "differing": 0}
    rows: list[dict[str, Any]] = [
        {
            "run_id": "r1",
            "kind": "different",
            "found": found,
            "error": None,
            "differing": 3,
        },
        {"run_id": "r2", "kind": "plan_failed", "found": None, "error": "EffectHeld: no"},
        {"run_id": "r3", "kind": "equal", "found": None, "error": None},
    ]
    with cli.made.db.begin() as connection:
        connection.execute(insert(Parity), [told | row for row in rows])
    parity = row_of(cli.json("cutover", "status")["jobs"], "cli-planned")["parity"]
    assert parity == {"compared": 3, "different": 2, "unexplained": 2, "plan": True}
    failed, different = cli.json("cutover", "parity", "cli-planned")
    assert (failed["error"], failed["run"]) == ("EffectHeld: no", "r2")
    assert different["differences"] == [{"field": "amount", "live": 5, "planned": 7}]
    shown = cli("cutover", "parity", "cli-planned").stdout
    assert all(word in shown for word in ("amount", "and 2 more", "EffectHeld: no"))
    assert len(cli.json("cutover", "parity", "cli-planned", "--kind", "equal")) == 1
    assert "no plan" in cli("cutover", "parity", "cli-plain").stderr
    explain = ("cutover", "parity", "explain")
    assert cli.json(*explain, str(different["id"]), "--why", "known") == {"explained": 1}
    assert "still to be explained" in cli.refused(*explain, "999", "--why", "w")
    assert "--why" in cli.refused(*explain, "cli-planned")
    assert "explain ids, or one job" in cli.refused(*explain, "1", "x", "--why", "w")
    assert cli.json(*explain, "cli-planned", "--why", "known too") == {"explained": 1}
    assert "no job" in cli.refused("cutover", "parity", "nope")
    parity = row_of(cli.json("cutover", "status")["jobs"], "cli-planned")["parity"]
    assert parity["unexplained"] == 0


def test_status_counts_open_and_failed_runs_by_backend(cli: Cli) -> None:
    cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}')
    moved = cli.json("jobs", "dispatch", "cli-plain", '{"name": "b"}')["id"]
    old = cli.json("jobs", "run", "cli-refuser", '{"name": "c", "failures": 1}', code=1)["id"]
    cli.json("jobs", "run", "cli-refuser", '{"name": "d", "failures": 1}', code=1)
    with cli.made.db.begin() as connection:
        connection.execute(update(R).where(R.id == moved).values(backend="inngest"))
        long_ago = utcnow() - timedelta(hours=25)
        connection.execute(update(R).where(R.id == old).values(ended_at=long_ago))
    rows = cli.json("cutover", "status")["jobs"]
    assert row_of(rows, "cli-plain")["open"] == {"rq": 1, "inngest": 1, "qstash": 0}
    assert row_of(rows, "cli-refuser")["failed_24h"] == {"rq": 1, "inngest": 0, "qstash": 0}
    assert row_of(rows, "cli-refuser")["open"] == {"rq": 0, "inngest": 0, "qstash": 0}
    with cli.made.db.begin() as connection:
        connection.execute(update(R).where(R.id == moved).values(job="forgotten"))
    assert cli.json("cutover", "status")["jobs"][-1]["name"] == "forgotten"
    assert "forgotten" in cli("cutover", "status").stdout


def test_status_reads_only_the_partial_indexes(cli: Cli) -> None:
    when = "2031-01-01 00:00:00.000000"
    plans = []
    with cli.made.db.autocommit() as connection:
        for chosen in (OPEN, FAILED):
            text = str(chosen.compile(connection))
            explained = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (when,))
            plans.append(" / ".join(row.detail for row in explained))
    assert "COVERING INDEX ix_switchyard_runs_open (check_at>?)" in plans[0]
    assert "INDEX ix_switchyard_runs_failed (ended_at>?)" in plans[1]


# --- the database and the processes -------------------------------------------------------------


def test_a_database_without_tables_is_one_line(build: Callable[..., Flask], tmp_path: Path) -> None:
    cli = Cli(build(f"sqlite:///{tmp_path / 'empty.db'}"))
    for args in (
        ["jobs", "list"],
        ["jobs", "dispatch", "cli-plain", '{"name": "a"}'],
        ["jobs", "run", "cli-plain", '{"name": "a"}'],
        ["runs", "list"],
        ["runs", "cancel", "x"],
        ["cutover", "status"],
        ["relay"],
        ["relay", "--once"],
        ["clock"],
    ):
        assert "flask --app app db upgrade" in cli.refused(*args, code=1), args


@pytest.mark.parametrize("url", ["sqlite:///{}", "postgresql://u:secret@127.0.0.1:1/none"])
def test_a_database_that_is_away_is_one_line_without_its_password(
    build: Callable[..., Flask], tmp_path: Path, url: str
) -> None:
    cli = Cli(build(url.format(tmp_path)))
    for args in (["runs", "list"], ["cutover", "status"], ["db", "upgrade"], ["clock"]):
        line = cli.refused(*args, code=1)
        assert "the database cannot be used" in line, args
        assert "secret" not in line


def test_db_upgrade_brings_the_tables_to_the_newest_revision(
    build: Callable[..., Flask], tmp_path: Path
) -> None:
    cli = Cli(build(f"sqlite:///{tmp_path / 'a%20b.db'}"))
    standing = cli.json("db", "upgrade")
    assert standing["revision"] == standing["head"]
    layer, platform = standing["branches"]
    assert platform["revision"] == platform["head"]
    assert {key: layer[key] for key in ("revision", "head")} == {
        key: standing[key] for key in ("revision", "head")
    }
    assert cli.json("db", "current") == standing
    result = cli("db", "downgrade", "-1", "--branch", platform["name"])
    assert result.exit_code == 0
    assert "the tables of platform are not those of this version" in result.stderr
    assert cli.json("db", "current")["branches"] == [layer, platform | {"revision": None}]
    assert cli.json("db", "downgrade", "base")["revision"] is None


def test_relay_once_says_what_it_did_and_that_a_backend_is_away(cli: Cli) -> None:
    assert cli.json("relay", "--once")["unreachable"] == 0
    cli.json("jobs", "dispatch", "cli-plain", '{"name": "a"}')
    time.sleep(0.25)
    assert cli.json("relay", "--once", code=1)["unreachable"] == 1


# --- real processes -----------------------------------------------------------------------------


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {"DATABASE_URL": url, "REDIS_URL": CLOSED, "SWITCHYARD_JOBS": JOBS}
    return kept | given | {"CHECK_SECONDS": "0.2", "LEASE_SECONDS": "1"} | more


def command(*args: str) -> list[str]:
    return [str(Path(sys.executable).parent / "flask"), "--app", "app", *args]


def start(url: str, *args: str, **more: str) -> subprocess.Popen[str]:
    words = ["-m", "flask", "--app", "app", *args]
    return Forked(words, env=environment(url, **more), stdout=-1, stderr=-1, text=True)


def test_exit_codes_and_streams_of_real_commands(url: str) -> None:
    """From nothing, as a shell starts them."""
    dispatched, refused = (
        subprocess.Popen(
            command("jobs", "dispatch", "cli-plain", payload, "--json"),
            cwd=ROOT,
            env=environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for payload in ('{"name": "a"}', "{name")
    )
    out, err = dispatched.communicate(timeout=PATIENCE_SECONDS)
    assert (dispatched.returncode, json.loads(out)["status"]) == (0, "pending")
    assert (err.count("\n"), "stays pending" in err) == (1, True)
    out, err = refused.communicate(timeout=PATIENCE_SECONDS)
    assert (refused.returncode, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("command", ["relay", "clock"])
def test_each_look_has_an_app_context_of_its_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    looks: Counter[tuple[str, str, bool]] = Counter()
    loops = {"clock"} if command == "clock" else {"relay", "guardrail"}
    asked = threading.Lock()  # the loops are threads: a second signal would come after the end

    def looking(who: str) -> Callable[..., relaying.Swept]:
        def look(*_: object) -> relaying.Swept:
            looks[who, current_app.name, "seen" in g] += 1
            g.seen = True
            enough = all(sum(n for key, n in looks.items() if key[0] == loop) > 1 for loop in loops)
            if enough and asked.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGTERM)
            return relaying.Swept()

        return look

    for module in (guardrail, clock):
        monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(relaying, "sweep", looking("relay"))
    monkeypatch.setattr(guardrail, "look", looking("guardrail"))
    monkeypatch.setattr(clock.Ticker, "round", looking("clock"))
    assert cli(command).exit_code == 0
    assert set(looks) == {(loop, "app", False) for loop in loops}


def test_relay_and_clock_end_cleanly_on_a_signal(url: str) -> None:
    relay, clock = start(url, "relay"), start(url, "clock")
    for process, name in ((relay, "relay"), (clock, "clock")):
        assert process.stderr is not None
        while f"{name} started" not in (line := process.stderr.readline()):
            assert line, f"{name} ended before it started"
    relay.send_signal(signal.SIGTERM)
    clock.send_signal(signal.SIGINT)
    for process, name in ((relay, "relay"), (clock, "clock")):
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == (0, ""), err
        assert f"{name} stopped" in err
        assert "Traceback" not in err


def test_two_processes_asked_for_the_same_run_do_it_once(url: str) -> None:
    args = ("jobs", "run", "cli-parent", '{"name": "p", "children": 12}', "--key", "k", "--json")
    # Neither is taken for dead, however slow the machine is.
    both = [start(url, *args, LEASE_SECONDS="60") for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE_SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    one, other = (json.loads(out) for out, _ in ended)
    assert one["id"] == other["id"]
    assert sorted([one["created"], other["created"]]) == [False, True]
    assert one["result"] == other["result"] == {"succeeded": 12}
    counted = marks(Database(url))
    assert (len(counted), set(counted.values())) == (37, {1})
    assert all("/12" not in out + err for out, err in ended), "a bar in a pipe"


def test_a_stopped_run_stays_open_and_the_next_process_ends_it(
    build: Callable[..., Flask], url: str
) -> None:
    payload = '{"name": "p", "children": 1, "waitSeconds": 3}'
    args = ("jobs", "run", "cli-parent", payload, "--key", "k", "--json")
    process = start(url, *args)
    db = Database(url)
    until(lambda: "nap" in _steps(db))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, json.loads(out)["status"]) == (1, "waiting"), err
    assert "stays open" in err
    assert Cli(build(url)).json(*args[:-1])["created"] is False
    assert set(marks(db).values()) == {1}


def _steps(db: Database) -> set[str]:
    with db.autocommit() as connection:
        return set(connection.execute(select(S.name)).scalars())


def test_a_bar_on_a_terminal(url: str) -> None:
    args = ("jobs", "run", "cli-parent", '{"name": "t", "children": 4, "waitSeconds": 0.6}')
    ours, theirs = pty.openpty()
    on_terminal = subprocess.Popen(
        command(*args), cwd=ROOT, env=environment(url, TERM="xterm"), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert on_terminal.wait(PATIENCE_SECONDS) == 0
    assert b"4/4" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_a_reader_that_goes_away_is_no_traceback(cli: Cli, url: str) -> None:
    key = "k" * 200
    with cli.made.db.begin() as connection:
        for number in range(600):
            values = {
                "id": f"{number:026d}",
                "job": "cli-plain",
                "key": f"{key}{number}",
                "payload": "{}",
                "backend": "rq",
                "reason": "DEFAULT",
                "stage": "legacy",
                "stage_version": 0,
                "created_at": utcnow(),
                "due_at": utcnow(),
                "check_at": utcnow(),
            }
            connection.execute(every_table()["switchyard_runs"].insert().values(values))
    listing = start(url, "runs", "list", "--limit", "600")
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == ""
    listing.stderr.close()
    listing.wait(PATIENCE_SECONDS)


def test_a_bad_setting_is_one_line(url: str) -> None:
    ended = [start(url, *args, USE_INNGEST="maybe") for args in (["jobs"], ["--help"])]
    for process in ended:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        line = "Error: USE_INNGEST: must be true or false\n"
        assert (process.returncode, out, err) == (2, "", line)
    with pytest.raises(SettingsError), settings_checked():
        raise SettingsError("outside a flask command it stays what it is")

"""The commands of `flask --app app`: their answers, their exit codes, and how they refuse."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.switchyard import audit
from app.switchyard.clock import iso, utcnow
from app.switchyard.operations import bulk
from app.switchyard.runs import operate
from app.switchyard.runs.backend import End
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from tests.support.cli import Cli

A = '{"name": "a"}'
STAGE = ("cutover", "stage", "child")
RUN_KEYS = (
    *("id", "job", "key", "backend", "reason", "stage", "status", "epoch", "attempt"),
    *("parent", "created_at", "started_at", "ended_at", "error", "progress"),
)
JOB_KEYS = (
    *("name", "event", "schedule", "queue", "attempts", "concurrency", "serverless"),
    *("stage", "percent", "backend", "file"),
)


def row_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


# --- what users script against ------------------------------------------------------------------

ANSWERS: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [
    (("jobs", "list"), JOB_KEYS, "child"),
    (("jobs", "show", "child"), (*JOB_KEYS, "gaps", "timeout", "next", "payload"), "waitSec"),
    (("runs", "list"), RUN_KEYS, "never [red]"),
    (("runs", "show", "{run}"), (*RUN_KEYS, "due_at", "payload", "result", "meta"), "refuse"),
    (("cutover", "status"), ("use_inngest", "jobs", "unreachable"), "refuser"),
    (
        ("cutover", "history"),
        ("at", "job", "from", "to", "percent", "by", "why", "forced"),
        "a reason",
    ),
    (("cutover", "pins"), ("job", "key", "side", "at", "by", "why"), "ana"),
    (("cutover", "inventory"), ("jobs", "redis"), "test.child"),
    (("relay", "--once"), ("sent", "unreachable"), "unreachable"),
    (("db", "current"), ("revision", "head", "branches"), "switchyard"),
    (
        ("jobs", "dispatch", "child", A, "--key", "k"),
        ("id", "job", "key", "backend", "reason", "status", "created", "sent"),
        "pending",
    ),
]


def test_the_answer_has_these_fields_and_people_see_it_too(cli: Cli) -> None:
    cli.json(*STAGE, "live", "--why", "a reason")
    cli.json("cutover", "pin", "child", "ana", "--to", "rq", "--why", "w")
    failed = cli.json("jobs", "run", "refuser", A, code=1)
    for given, keys, shown in ANSWERS:
        args = tuple(arg.replace("{run}", failed["id"]) for arg in given)
        answer = cli.json(*args)
        answer = answer[0] if isinstance(answer, list) else answer
        assert list(answer)[: len(keys)] == list(keys) or set(answer) >= set(keys), args
        result = cli(*args)
        assert result.exit_code == 0, args
        assert shown in result.stdout, args
        assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("job", "stage", "switch", "backend"),
    [
        ("posted", ["live"], "true", "qstash"),
        ("child", ["live"], "false", "rq"),
        ("child", ["ramp", "--percent", "99"], "true", "rq"),
        ("child", ["ramp", "--percent", "100"], "true", "inngest"),
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


@pytest.mark.parametrize("database", ["sqlite:///{}/no.db", "postgresql://u:secret@127.0.0.1:1/x"])
def test_the_catalogue_is_shown_without_a_database(
    build: Callable[..., Cli], tmp_path: Path, database: str
) -> None:
    cli = build(database.format(tmp_path))
    listed = cli("jobs", "list", "--json")
    row = row_of(json.loads(listed.stdout), "child")
    assert (listed.exit_code, row["stage"], row["backend"]) == (0, "unknown", "rq")
    assert listed.stderr.startswith("the stages are unknown: the database ")
    assert listed.stderr.count("\n") == 1
    assert "secret" not in listed.stderr


def test_a_run_that_cannot_be_sent_stays_pending_and_is_known_again(cli: Cli) -> None:
    args = ("jobs", "dispatch", "child", A, "--key", "k", "--json")
    first, again = cli(*args), cli(*args)
    run = json.loads(first.stdout)
    assert (run["key"], run["status"], run["created"], run["sent"]) == ("k", "pending", True, False)
    assert "stays pending" in first.stderr
    assert json.loads(again.stdout) | {"created": True} == run
    assert "was known" in again.stderr
    time.sleep(0.25)
    assert cli.json("relay", "--once", code=1)["unreachable"] == 1


# --- wrong use ----------------------------------------------------------------------------------

DISPATCH, WHY = ("jobs", "dispatch", "child"), ("--why", "w")
WRONG_USES: list[tuple[tuple[str, ...], str]] = [
    (("jobs", "show", "nope"), "no job 'nope'"),
    (("jobs", "run", "nope", "--plan"), "no job 'nope'"),
    (("jobs", "run", "child", "{}"), "name: Field required"),
    (("jobs", "run", "child", A, "--plan"), "cannot say what it would do"),
    (("jobs", "run", "planned", A, "--plan", "--key", "k"), "--plan or --key"),
    (("jobs", "run", "planned", "{name", "--plan"), "not JSON"),
    (("jobs", "dispatch", "nope"), "no job 'nope'"),
    ((*DISPATCH, "{}"), "name: Field required"),
    ((*DISPATCH, '{"name": 1}'), "name: Input should be a valid string"),
    ((*DISPATCH, '{"name": "a", "extra": 1}'), "extra"),
    ((*DISPATCH, '{"name": NaN}'), "name"),
    ((*DISPATCH, "{name"), "not JSON"),
    ((*DISPATCH, "[" * 100_000), "not JSON"),
    ((*DISPATCH, '["a"]'), "must be a JSON object"),
    ((*DISPATCH, A, "--delay", "-1"), "delay"),
    ((*DISPATCH, A, "--delay", "nan"), "delay"),
    ((*DISPATCH, A, "--delay", "1e300"), "delay"),
    ((*DISPATCH, A, "--at", "noon"), "--at"),
    ((*DISPATCH, A, "--at", "2031-05-04"), "no time zone"),
    ((*DISPATCH, A, "--delay", "1", "--at", "2031-01-01Z"), "--at"),
    ((*DISPATCH, A, "--key", ""), "key must have"),
    ((*DISPATCH, A, "--key", "x" * 256), "key must have"),
    ((*DISPATCH, A, "--key", "\udcff"), "be Unicode"),
    (("runs", "show", "nope"), "no run 'nope'"),
    (("runs", "retry", "nope"), "no run 'nope'"),
    (("runs", "cancel", "nope"), "no run 'nope'"),
    (("runs", "retry", "--job", "child", *WHY), "use one of failed, cancelled"),
    (("runs", "cancel", "--status", "failed", *WHY), "use one of pending, running, waiting"),
    (("runs", "cancel", "--status", "pending"), "say why"),
    (("runs", "cancel", "x", "--status", "pending"), "a run's id or a filter, not both"),
    (("runs", "cancel", *WHY), "give a run's id, or a filter"),
    (("runs", "list", "--payload", "x"), "must be a field and its value"),
    (("runs", "list", "--job", "nope"), "no job 'nope'"),
    (("cutover", "history", "nope"), "no job 'nope'"),
    (("cutover", "stage", "nope", "live", *WHY), "no job 'nope'"),
    (("cutover", "stage", "live", *WHY), "give a job and a stage"),
    ((*STAGE, "live", "--all", *WHY), "--all and a stage"),
    ((*STAGE, "nope", *WHY), "stage must be one of"),
    ((*STAGE, "live", "--why", " "), "say why"),
    ((*STAGE, "ramp", *WHY), "needs a percent"),
    ((*STAGE, "ramp", "--percent", "0", *WHY), "pinned keys"),
    ((*STAGE, "live", "--percent", "5", *WHY), "percent"),
    ((*STAGE, "ramp", "--percent", "101", *WHY), "0 to 100"),
    ((*STAGE, "ramp", "--percent", "nan", *WHY), "0 to 100"),
    ((*STAGE, "live", *WHY, "--by", ""), "by must have"),
    ((*STAGE, "live", *WHY, "--by", "guardrail"), "signs for itself"),
    ((*STAGE, "live", *WHY, "--force"), "--force is for complete"),
    ((*STAGE, "complete", *WHY), "it comes after live"),
    (("cutover", "stage", "--all", "nope", *WHY), "stage must be one of"),
    (("cutover", "stage", "--all", "ramp", *WHY), "needs a percent"),
    (("runs", "list", "--since", "yesterday"), "since: say 2h, 7d or"),
    (("cutover", "pin", "nope", "a", "--to", "rq", *WHY), "no job"),
    (("cutover", "unpin", "child", "a", "--why", " "), "say why"),
    (("cutover", "parity", "nope"), "no job"),
    (("cutover", "parity", "explain", "planned"), "--why"),
    (("cutover", "parity", "explain", "1", "x", *WHY), "explain ids, or one job"),
    (("cutover", "parity", "explain"), "explain ids, or one job"),
    (("cutover", "parity", "explain", "999", *WHY), "not an unexplained difference"),
    (("cutover", "parity", "explain", "9" * 30, *WHY), "no job"),
    (("cutover", "parity", "explain", "\u0661", *WHY), "no job"),
    (("db", "downgrade", "nope", "-1"), "no branch 'nope'; there are: switchyard, platform"),
    (("db", "downgrade", "platform", "nope"), "nope"),
]
REFUSED_BY_CLICK = [
    (*STAGE, "live"),
    ("jobs", "dispatch"),
    (*DISPATCH, "{}", "--delay", "soon"),
    ("runs", "list", "--status", "nope"),
    ("runs", "list", "--limit", "0"),
    ("cutover", "pin", "child", "a", "--to", "up", *WHY),
    ("nope",),
]


def test_wrong_use_is_one_line_and_changes_nothing(cli: Cli) -> None:
    for args, says in WRONG_USES:
        assert says in cli.refused(*args), args
    for args in REFUSED_BY_CLICK:
        result = cli(*args)
        assert (result.exit_code, result.stdout) == (2, ""), args
        assert "Error: " in result.stderr
    assert cli.json("runs", "list") == []
    assert cli.json("cutover", "history") == []


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("sqlite:///{}/empty.db", "flask --app app db upgrade"),
        ("sqlite:///{}", "the database cannot be used"),
        ("postgresql://u:secret@127.0.0.1:1/none", "the database cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(
    build: Callable[..., Cli], tmp_path: Path, database: str, says: str
) -> None:
    cli = build(database.format(tmp_path))
    for args in (
        ("jobs", "dispatch", "child", A),
        ("runs", "list"),
        ("cutover", "status"),
        ("relay",),
        ("clock",),
    ):
        line = cli.refused(*args, code=1)
        assert says in line, args
        assert "secret" not in line


# --- runs ---------------------------------------------------------------------------------------


def test_runs_list_newest_first_and_filtered(cli: Cli) -> None:
    first = cli.json("jobs", "run", "child", A)["id"]
    time.sleep(0.002)
    second = cli.json("jobs", "dispatch", "parent", A)["id"]

    def ids(*filters: str) -> list[str]:
        return [row["id"] for row in cli.json("runs", "list", *filters)]

    assert ids() == [second, first]
    assert ids("--job", "child") == ids("--status", "succeeded") == [first]
    assert ids("--limit", "1") == [second]
    assert ids("--backend", "inngest") == ids("--job", "child", "--status", "failed") == []


def test_retry_goes_on_from_the_done_steps_with_fresh_tries(cli: Cli) -> None:
    payload = '{"name": "a", "failures": 1}'
    run = cli.json("jobs", "run", "refuser", payload, "--key", "k", code=1)
    assert (run["status"], "never" in run["error"]) == ("failed", True)
    epoch = cli.status(run["id"])[1]
    result = cli("runs", "retry", run["id"], "--json")
    row = json.loads(result.stdout)
    anew = {"status": "pending", "epoch": epoch + 1, "ended_at": None, "error": None}
    assert row | anew == row
    assert "stays pending" in result.stderr
    assert "is pending" in cli.refused("runs", "retry", run["id"])
    steps = {step["name"]: step for step in cli.json("runs", "show", run["id"])["steps"]}
    assert (steps["first"]["status"], steps["first"]["attempts"]) == ("done", 1)
    assert (steps["refuse"]["status"], steps["refuse"]["attempts"]) == ("retrying", 0)
    assert cli.json("jobs", "run", "refuser", payload, "--key", "k")["status"] == "succeeded"
    assert cli.marks() == {"a/first": 1}
    for verb in ("retry", "cancel"):
        assert "is succeeded" in cli.refused("runs", verb, run["id"])


def test_cancel_takes_the_children_along_and_retry_brings_them_back(cli: Cli) -> None:
    payload = '{"name": "p"}'
    begun = cli.json("jobs", "dispatch", "parent", payload, "--key", "k")
    cli.perform(begun["id"])
    children = [row["id"] for row in cli.json("runs", "list", "--job", "child")]
    cli.json("runs", "cancel", children[0])
    assert cli.perform(children[1]) is End.DONE
    result = cli("runs", "cancel", begun["id"])
    assert (result.exit_code, result.stderr) == (0, "also cancelled: 1 run below it\n")
    assert cli.status(children[2])[0] == Status.CANCELLED

    assert "also continued: 1 run cancelled with it" in cli("runs", "retry", begun["id"]).stderr
    run = cli.json("jobs", "run", "parent", payload, "--key", "k")
    assert run["result"] == {"cancelled": 1, "succeeded": 2}


def test_many_are_cancelled_and_retried_by_filter(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    for number in range(5):
        cli.json("jobs", "dispatch", "child", f'{{"name": "n{number}"}}')
    some = ("--job", "child", *WHY)
    nothing = {"matching": 5, "counted": True, "done": 0, "refused": 0, "interrupted": False}
    pending = ("runs", "cancel", *some, "--status", "pending")
    assert cli.json(*pending, "--dry-run") == nothing
    assert cli.json(*pending) == nothing | {"done": 5}
    assert cli.json(*pending)["matching"] == 0
    by = ("--by", "ada", "--payload", "name:n3", "--status", "cancelled")
    assert cli.json("runs", "retry", *some, *by)["done"] == 1
    history = audit.history(cli.runtime.db)
    acts = [(one["act"], one["who"], one["count"]) for one in history]
    assert acts[0] == ("retry", "ada", 1)
    assert [count for *_, count in acts] == [1, 0, 5]


def test_a_cancel_that_was_cut_short_is_finished_by_the_next(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "parent", '{"name": "p"}')
    cli.perform(begun["id"])
    with cli.runtime.db.begin() as connection:
        half = update(R).where(R.id == begun["id"])
        connection.execute(half.values(status=Status.CANCELLED, check_at=None, epoch=R.epoch + 1))
    assert operate.cancel(cli.runtime.store, begun["id"]) == 3


def test_cancelling_the_last_child_wakes_its_parent(cli: Cli) -> None:
    begun = cli.json("jobs", "dispatch", "parent", '{"name": "p", "children": 1}')
    cli.perform(begun["id"])
    epoch = cli.status(begun["id"])[1]
    cli.json("runs", "cancel", cli.json("runs", "list", "--job", "child")[0]["id"])
    assert cli.status(begun["id"]) == (Status.WAITING, epoch + 1)
    assert cli.perform(begun["id"]) is End.DONE
    assert cli.marks() == {"p/after": 1}


def test_dispatch_later(cli: Cli) -> None:
    late = cli.json("jobs", "dispatch", "child", A, "--delay", "3600")
    later = cli.json("jobs", "dispatch", "child", A, "--at", "2031-05-04T11:00:00+02:00")
    due = cli.json("runs", "show", late["id"])["due_at"]
    assert str(iso(utcnow() + timedelta(minutes=59))) < due
    assert cli.json("runs", "show", later["id"])["due_at"] == "2031-05-04T09:00:00.000Z"

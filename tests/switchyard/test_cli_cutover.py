"""`cutover`: stages through the gate, pins, parity, and what its status counts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy import insert, update

from app.switchyard.clock import utcnow
from app.switchyard.cutover.shadow import Parity
from app.switchyard.cutover.status import FAILED, OPEN
from app.switchyard.runs.models import RunRow as R
from tests.support.cli import Cli
from tests.support.plans import plan_if_large

STAGE = ("cutover", "stage", "child")
NOBODY = {"rq": 0, "inngest": 0, "qstash": 0}


def job_of(cli: Cli, name: str) -> dict[str, Any]:
    jobs = cli.json("cutover", "status")["jobs"]
    return next(job for job in jobs if job["name"] == name)


def test_stage_is_on_record_and_says_where_it_stands(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    args = (*STAGE, "ramp", "--percent", "12.5", "--why", "try it")
    result = cli(*args, "--json")
    assert json.loads(result.stdout) == {
        "use_inngest": False,
        "jobs": [
            {
                "name": "child",
                "stage": "ramp",
                "percent": 12.5,
                "version": ANY,
                "open": NOBODY,
                "overdue": NOBODY,
                "failed_24h": NOBODY,
                "parity": {"compared": 0, "different": 0, "unexplained": 0, "plan": False},
            }
        ],
    }
    assert "USE_INNGEST is not true" in result.stderr
    assert "is already at" in cli.refused(*args)
    cli.json(*STAGE, "legacy", "--why", "back", "--by", "bob")
    back, there = cli.json("cutover", "history", "child")
    went = {"from": "legacy", "to": "ramp", "percent": 12.5, "by": "ada", "why": "try it"}
    came = {"from": "ramp", "to": "legacy", "percent": None, "by": "bob"}
    assert there | went == there
    assert back | came == back
    assert len(cli.json("cutover", "history", "--limit", "1")) == 1


def test_stage_all_moves_those_that_stand_elsewhere_and_says_which_stay(cli: Cli) -> None:
    cli.json(*STAGE, "live", "--why", "first")
    cli.json("jobs", "dispatch", "refuser", '{"name": "a"}')
    after = cli.json("cutover", "stage", "--all", "live", "--why", "all")
    assert {job["stage"] for job in after["jobs"]} == {"live"}
    assert len(cli.json("cutover", "history")) == len(after["jobs"])
    again = cli("cutover", "stage", "--all", "live", "--why", "all")
    assert (again.exit_code, "nothing was changed" in again.stderr) == (0, True)
    every = cli("cutover", "stage", "--all", "complete", "--why", "w")
    assert (every.exit_code, "refuser is not complete" in every.stderr) == (1, True)
    stages = [job_of(cli, name)["stage"] for name in ("child", "refuser")]
    assert stages == ["complete", "live"]


def test_a_job_goes_all_the_way_through_the_gate(cli: Cli) -> None:
    no_plan = cli(*STAGE, "shadow", "--why", "w")
    assert "child has no plan, so nothing is compared" in no_plan.stderr
    assert "no plan" in no_plan.stdout
    assert "no plan" not in cli("cutover", "stage", "planned", "shadow", "--why", "w").stderr
    cli.json("jobs", "dispatch", "child", '{"name": "a"}')
    cli.json(*STAGE, "live", "--why", "w")
    line = cli.refused(*STAGE, "complete", "--why", "w", code=1)
    assert "1 open run on the old side (cutover drain child --to serverless)" in line
    assert "--force completes it all the same" in line
    cli.json(*STAGE, "complete", "--why", "w", "--force")
    (last, *_) = cli.json("cutover", "history", "child")
    assert (last["to"], last["forced"]) == ("complete", True)
    assert "forced past: 1 open run on" in last["why"]
    assert "back to live" in cli.refused(*STAGE, "shadow", "--why", "w")


def test_pins(cli: Cli) -> None:
    pin = ("cutover", "pin", "child", "ana", "bo", "--to", "serverless", "--why", "first")
    assert [row["key"] for row in cli.json(*pin, "--by", "ada")] == ["ana", "bo"]
    assert "nothing was changed" in cli(*pin).stderr
    (left,) = cli.json("cutover", "unpin", "child", "bo", "--why", "enough")
    assert (left["key"], left["side"], left["by"]) == ("ana", "serverless", "ada")
    assert cli.json("cutover", "pins") == cli.json("cutover", "pins", "child") == [left]


def test_parity_lists_differences_and_takes_explanations(cli: Cli) -> None:
    differing = '[{"field":"amount","live":5,"planned":7}]'
    common = {"job": "planned", "planned_at": utcnow(), "found": None, "error": None}
    rows: list[dict[str, Any]] = [
        {"run_id": "r1", "kind": "different", "found": differing, "differing": 3},
        {"run_id": "r2", "kind": "plan_failed", "error": "EffectHeld: no", "differing": 0},
        {"run_id": "r3", "kind": "equal", "differing": 0},
    ]
    with cli.runtime.db.begin() as connection:
        connection.execute(insert(Parity), [common | row for row in rows])
    parity = job_of(cli, "planned")["parity"]
    assert parity == {"compared": 3, "different": 2, "unexplained": 2, "plan": True}
    failed, different = cli.json("cutover", "parity", "planned")
    assert (failed["error"], failed["run"]) == ("EffectHeld: no", "r2")
    assert different["differences"] == [{"field": "amount", "live": 5, "planned": 7}]
    shown = cli("cutover", "parity", "planned").stdout
    assert all(word in shown for word in ("amount", "and 2 more", "EffectHeld: no"))
    assert len(cli.json("cutover", "parity", "planned", "--kind", "equal")) == 1
    assert "no plan" in cli("cutover", "parity", "child").stderr
    explain = ("cutover", "parity", "explain")
    assert cli.json(*explain, str(different["id"]), "--why", "known") == {"explained": 1}
    assert cli.json(*explain, "planned", "--why", "known too") == {"explained": 1}
    assert job_of(cli, "planned")["parity"]["unexplained"] == 0


def test_status_counts_open_overdue_and_failed_runs_by_backend(cli: Cli) -> None:
    long_ago = utcnow() - timedelta(hours=25)
    for late in ({"status": "running"}, {"status": "waiting", "holder": "inngest-run"}):
        run = cli.json("jobs", "dispatch", "child", '{"name": "at work"}')["id"]
        with cli.runtime.db.begin() as connection:
            connection.execute(update(R).where(R.id == run).values(due_at=long_ago, **late))
    cli.json("jobs", "dispatch", "child", '{"name": "a"}')
    moved = cli.json("jobs", "dispatch", "child", '{"name": "b"}')["id"]
    old = cli.json("jobs", "run", "refuser", '{"name": "c", "failures": 1}', code=1)["id"]
    cli.json("jobs", "run", "refuser", '{"name": "d", "failures": 1}', code=1)
    with cli.runtime.db.begin() as connection:
        gone = {"backend": "inngest", "due_at": long_ago}  # it took it, and never called
        connection.execute(update(R).where(R.id == moved).values(gone))
        connection.execute(update(R).where(R.id == old).values(ended_at=long_ago))
    plain = job_of(cli, "child")
    assert plain["open"] == {"rq": 3, "inngest": 1, "qstash": 0}
    assert plain["overdue"] == NOBODY | {"inngest": 1}
    refuser = job_of(cli, "refuser")
    assert (refuser["failed_24h"], refuser["open"]) == (NOBODY | {"rq": 1}, NOBODY)
    with cli.runtime.db.begin() as connection:
        connection.execute(update(R).where(R.id == moved).values(job="forgotten"))
    assert cli.json("cutover", "status")["jobs"][-1]["name"] == "forgotten"


def test_status_reads_only_the_partial_indexes(cli: Cli) -> None:
    opened = plan_if_large(cli.runtime.db, OPEN, late=utcnow())
    assert "INDEX ix_switchyard_runs_open (check_at>?)" in opened
    failed = plan_if_large(cli.runtime.db, FAILED, since=utcnow())
    assert "INDEX ix_switchyard_runs_failed (ended_at>?)" in failed

"""`jobs run` does a job here and now; relay and clock; and the commands as a shell starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import current_app, g
from sqlalchemy import insert, select

from app.platform.config import ROOT
from app.switchyard.clock import utcnow
from app.switchyard.commands import jobs, output, settings_checked
from app.switchyard.cutover import clock, guardrail
from app.switchyard.db import Database
from app.switchyard.errors import SettingsError
from app.switchyard.runs import relay as relaying
from app.switchyard.runs.backend import Delivery, End
from app.switchyard.runs.claim import claim_run
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.steps import ClaimedRun
from tests.support import jobs as support_jobs
from tests.support.cli import Cli, environment, start
from tests.support.console import Site
from tests.support.marks import marks
from tests.support.rows import run_row
from tests.support.waiting import PATIENCE_SECONDS, until

RUN = ("jobs", "run", "five-steps")


def test_it_does_the_job_here_with_its_retries(cli: Cli) -> None:
    payload = '{"name": "a", "failAt": 2, "failures": 1}'
    result = cli(*RUN, payload, "--key", "k", "--json")
    run = json.loads(result.stdout)
    assert (result.exit_code, run["status"], run["created"]) == (0, "succeeded", True)
    assert run["result"] == [f"a/{number}" for number in range(1, 6)]
    assert "failed on purpose; tried again at" in result.stderr
    assert cli.marks() == dict.fromkeys(run["result"], 1)
    assert cli.perform(run["id"]) is End.NOT_MINE

    again = cli(*RUN, payload, "--key", "k", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, run | {"created": False})
    assert "is succeeded" in again.stderr
    for verb in ("dispatch", "run"):
        line = cli.refused("jobs", verb, "five-steps", '{"name": "b"}', "--key", "k")
        assert "with another payload" in line


def test_a_plan_says_what_a_run_would_do_and_writes_nothing(cli: Cli) -> None:
    began = utcnow()
    for _ in range(2):
        plan = cli.json("jobs", "run", "planned", '{"name": "a", "amount": 3}', "--plan")
        assert began.isoformat() <= plan["at"] <= utcnow().isoformat()
        assert plan == {
            "at": plan["at"],
            "found": 1,
            "marks": [{"what": "a", "amount": 3}, {"what": "b", "why": "[b]no"}],
            "none": [],
        }
    shown = cli("jobs", "run", "planned", '{"name": "a"}', "--plan")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert all(line in lines for line in (["found", "1"], ["marks", "2"], ["none", "0"]))
    assert [line for line in lines if len(line) == 3] == [
        ["what", "amount", "why"],
        ["a", "5", "-"],
        ["b", "-", "[b]no"],
    ]
    acts = ("jobs", "run", "order", '{"name": "a", "tries": "dispatch"}', "--plan")
    assert "a plan may not do this" in cli.refused(*acts, code=1)
    assert (cli.marks(), cli.json("runs", "list")) == ({}, [])


def test_it_goes_on_with_children_that_were_never_sent(cli: Cli) -> None:
    payload = '{"name": "p"}'
    begun = cli.json("jobs", "dispatch", "parent", payload, "--key", "k")
    assert cli.perform(begun["id"]) is End.WAIT
    run = cli.json("jobs", "run", "parent", payload, "--key", "k")
    assert (run["id"], run["created"], run["result"]) == (begun["id"], False, {"succeeded": 3})
    assert run["children"] == {"succeeded": 3}
    assert set(cli.marks().values()) == {1}


def test_it_waits_for_what_another_process_holds(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    def say(text: str) -> None:
        output.say(text)
        if "another process is performing it" in text:
            waits.set()

    monkeypatch.setattr(jobs, "say", say)
    # The other one is not done before this one waits for it.
    held = SimpleNamespace(sleep=lambda _: waits.wait(PATIENCE_SECONDS))
    monkeypatch.setattr(support_jobs, "time", held)
    slow = ("slow", '{"name": "a"}', "--key", "k")
    begun = cli.json("jobs", "dispatch", *slow)
    worker = threading.Thread(target=cli.perform, args=(begun["id"],))
    worker.start()
    until(lambda: cli.status(begun["id"])[0] != Status.PENDING)
    run = cli.json("jobs", "run", *slow)
    worker.join()
    assert (run["status"], waits.is_set()) == ("succeeded", True)
    assert cli.marks() == {"a": 1, "a/after": 1}


def test_it_takes_over_from_a_process_that_died(build: Callable[..., Cli], url: str) -> None:
    cli = build(url, lease_seconds=0.5)
    begun = cli.json("jobs", "dispatch", "five-steps", '{"name": "a"}', "--key", "k")
    claimed = claim_run(cli.runtime.store, begun["id"], 1, Delivery("dead"))
    assert isinstance(claimed, ClaimedRun)
    run = cli.json(*RUN, '{"name": "a"}', "--key", "k")
    assert (run["id"], run["status"]) == (begun["id"], "succeeded")


def test_db_upgrade_brings_the_tables_to_the_newest_revision(
    build: Callable[..., Cli], tmp_path: Path
) -> None:
    cli = build(f"sqlite:///{tmp_path / 'a%20b.db'}")
    standing = cli.json("db", "upgrade")
    layer, platform = standing["branches"]
    assert all(one["revision"] == one["head"] for one in (standing, layer, platform))
    assert cli.json("db", "current") == standing
    result = cli("db", "downgrade", platform["name"], "-1")
    assert result.exit_code == 0
    assert "the tables of platform are not those of this version" in result.stderr
    assert cli.json("db", "current")["branches"] == [layer, platform | {"revision": None}]
    assert cli.json("db", "downgrade", "switchyard", "base")["revision"] is None


@pytest.mark.parametrize("command", ["relay", "clock"])
def test_each_look_has_an_app_context_of_its_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    looks: Counter[tuple[str, str, bool]] = Counter()
    relays = ("send_due", "take_over_lapsed", "look_at_silent")
    loops = {"clock"} if command == "clock" else {*relays, "guardrail"}
    asked = threading.Lock()  # the loops are threads: a second signal would come after the end

    def looking(who: str) -> Callable[..., None]:
        def look(*_: object) -> None:
            looks[who, current_app.name, "seen" in g] += 1
            g.seen = True
            enough = all(sum(n for key, n in looks.items() if key[0] == loop) > 1 for loop in loops)
            if enough and asked.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGTERM)

        return look

    for module in (guardrail, clock):
        monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(relaying, "INTERVAL_SECONDS", 0.02)
    for name in relays:
        monkeypatch.setattr(relaying, name, looking(name))
    monkeypatch.setattr(guardrail, "look", looking("guardrail"))
    monkeypatch.setattr(clock.Ticker, "round", looking("clock"))
    assert cli(command).exit_code == 0
    assert set(looks) == {(loop, "app", False) for loop in loops}


# --- as a shell starts them ---------------------------------------------------------------------


def test_exit_codes_and_streams_of_real_commands(url: str) -> None:
    args = ("jobs", "dispatch", "child")
    command = [str(Path(sys.executable).parent / "flask"), "--app", "app", *args, '{"name": "a"}']
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    dispatched = subprocess.Popen([*command, "--json"], cwd=ROOT, env=environment(url), **pipes)
    refused = start(url, *args, "{name", "--json")
    out, err = dispatched.communicate(timeout=PATIENCE_SECONDS)
    assert (dispatched.returncode, json.loads(out)["status"]) == (0, "pending")
    assert (err.count("\n"), "stays pending" in err) == (1, True)
    out, err = refused.communicate(timeout=PATIENCE_SECONDS)
    assert (refused.returncode, out, err.count("\n")) == (2, "", 1)


def test_a_stopped_run_stays_open_and_the_next_process_ends_it(
    build: Callable[..., Cli], url: str
) -> None:
    payload = '{"name": "s", "waitSeconds": 3}'
    args = ("jobs", "run", "sleeper", payload, "--key", "k", "--json")
    process = start(url, *args)
    db = Database(url)
    until(lambda: "nap" in _steps(db))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, json.loads(out)["status"]) == (1, "waiting"), err
    assert "stays open" in err
    assert build(url).json(*args[:-1])["created"] is False
    assert set(marks(db).values()) == {1}


def _steps(db: Database) -> set[str]:
    return {one for (one,) in db.rows(select(S.name))}


def test_a_reader_that_leaves_is_no_traceback(cli: Cli, url: str) -> None:
    rows = [run_row(f"{n:026d}", "child", utcnow(), error="e" * 200) for n in range(600)]
    with cli.runtime.db.begin() as connection:
        connection.execute(insert(R), rows)
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


def test_a_plan_that_fails_is_one_line(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path / 'test.db'}", switchyard_jobs="tests.support.shadowed")
    payload = '{"name": "x", "tries": "raise"}'
    said = Cli(site.app).refused("jobs", "run", "order", payload, "--plan", code=1)
    assert "RuntimeError: no plan today" in said
    site.runtime.db.dispose()

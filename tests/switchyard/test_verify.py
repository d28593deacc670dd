"""`cutover verify`: each line holds where it should, and says what to do where it does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, jsonify
from pydantic import SecretStr
from sqlalchemy import insert, select, update

from app.platform import checks as platform_checks
from app.platform.config import Settings, load
from app.platform.gateways.smtp import Mailer
from app.platform.wiring import make_runtime
from app.switchyard.clock import iso
from app.switchyard.commands import checks
from app.switchyard.commands.checks import checked
from app.switchyard.cutover.clock import tick
from app.switchyard.cutover.status import LATE
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable, CheckFailed, SwitchyardError
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import NOT_SENT, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Check, Runtime
from queues.backend import connect
from tests.support.mailbox import served
from tests.support.rows import run_row
from tests.support.serving import serve_in_thread
from tests.support.sides import (
    CURRENT_KEY,
    NEXT_KEY,
    both,
    build,
    ledger,
)
from tests.support.standins import QStashStandIn
from tests.support.waiting import PATIENCE_SECONDS
from workflows.schedules import sync

CLOSED = "http://127.0.0.1:1"
SECRET = "sekret0123456789"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.switchyard.runtime._own", None)


@pytest.fixture
def runtime(redis_url: str, tmp_path: Path) -> Iterator[Runtime]:
    modules = "tests.support.jobs,app.switchyard.maintenance"
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with ledger(url, MemoryBackend(), REDIS_URL=redis_url, SWITCHYARD_JOBS=modules) as runtime:
        yield runtime


def settled(**values: Any) -> Runtime:
    """The parts that these settings make; no database is opened."""
    return make_runtime(Settings(**{"database_url": "sqlite://"} | values))


def test_checks_are_made_side_by_side(runtime: Runtime) -> None:
    never = threading.Event()
    ended: list[int] = []

    def hang(_made: Runtime) -> str:
        never.wait()
        return "never"

    def burst(_made: Runtime) -> str:
        raise ValueError(f"redis://:{SECRET}@host")

    def refuse(_made: Runtime) -> str:
        raise CheckFailed("not as it must be")

    begun = threading.Barrier(2)

    def together(_made: Runtime) -> str:
        begun.wait()
        return "met"

    lines = [
        Check("hangs", hang, "wait", seconds=0.3),
        Check("first", together, "a", PATIENCE_SECONDS),
        Check("second", together, "b", PATIENCE_SECONDS),
        Check("bursts", burst, "c", PATIENCE_SECONDS),
        Check("refuses", refuse, "d", PATIENCE_SECONDS),
    ]
    found = checked(runtime, lines, lambda: ended.append(1))
    assert found == [
        {"check": "hangs", "ok": False, "detail": "no answer within 0.3 s", "fix": "wait"},
        {"check": "first", "ok": True, "detail": "met", "fix": None},
        {"check": "second", "ok": True, "detail": "met", "fix": None},
        {"check": "bursts", "ok": False, "detail": "it failed: redis://…@host", "fix": "c"},
        {"check": "refuses", "ok": False, "detail": "not as it must be", "fix": "d"},
    ]
    assert len(ended) == 4
    never.set()


def test_canaries_come_back_and_inngest_has_exactly_our_functions(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary is on the side it was sent to, whatever the flag says, and on record as one."""
    monkeypatch.setattr(checks, "CANARY_SECONDS", PATIENCE_SECONDS)
    connect(redis_url).flushall()
    jobs = "tests.support.jobs,app.switchyard.maintenance"
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with both(url, redis_url, tmp_path, SWITCHYARD_JOBS=jobs) as on:
        for backend in ("rq", "inngest", "qstash"):
            assert "there and back" in checks.canary(backend, on.runtime)
        rows = on.runtime.db.rows(select(R.backend, R.reason, R.status).order_by(R.created_at))
        assert rows == [(name, "CANARY", "succeeded") for name in ("rq", "inngest", "qstash")]
        assert "functions there and here" in checks.inngest_functions(on.runtime)
        assert "an event was accepted" in checks.inngest_key(on.runtime)
        assert on.standin is not None
        functions = on.standin.engine.functions
        functions["switchyard-gone"] = functions.pop("switchyard-noop")
        functions["another-app"] = functions["switchyard-gone"]
        with pytest.raises(CheckFailed) as found:
            checks.inngest_functions(on.runtime)
    assert "missing there: ['noop']; not in this code: ['gone']" in str(found.value)


def test_a_canary_that_does_not_come_back(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CANARY_SECONDS", 0.3)
    with pytest.raises(CheckFailed, match=r"pending after 0\.3 s; it was cancelled"):
        checks.canary("memory", runtime)
    with runtime.db.autocommit() as connection:
        assert connection.execute(R.__table__.select()).one().status == Status.CANCELLED
    with pytest.raises(BackendUnavailable, match="no backend"):
        checks.canary("qstash", runtime)


def test_lost_runs(runtime: Runtime) -> None:
    assert checks.lost_runs(runtime) == "no open run is overdue"
    dispatch("noop", {"name": "x"})
    assert checks.lost_runs(runtime) == "no open run is overdue"
    late = runtime.store.clock() - timedelta(minutes=5)
    with runtime.db.begin() as connection:
        connection.execute(update(R).values(check_at=late))
    with pytest.raises(CheckFailed, match="nobody has looked at 1 open run,"):
        checks.lost_runs(runtime)


def test_refused_runs(runtime: Runtime) -> None:
    assert checks.refused_runs(runtime) == "no open run is refused"
    run = dispatch("noop", {"name": "x"})
    with runtime.db.begin() as connection:
        connection.execute(update(R).values(error=f"{NOT_SENT}it is too big"))
    with pytest.raises(CheckFailed, match=f"1 run, the oldest {run.id} of noop: .* too big"):
        checks.refused_runs(runtime)


def test_clocks(runtime: Runtime) -> None:
    assert "nothing was due" in checks.clocks(runtime)
    spec = runtime.catalogue["keyed"]
    last = spec.occurrence_at(runtime.store.clock() - LATE)
    long_ago = last - timedelta(days=3)
    with runtime.db.begin() as connection:
        id_ = f"{int(long_ago.timestamp() * 1000):012x}{'0' * 14}"
        connection.execute(insert(R).values(run_row(id_, "noop", long_ago)))
    with pytest.raises(CheckFailed, match=f"no run for keyed of {iso(last)}"):
        checks.clocks(runtime)
    tick(spec, last)
    prune = runtime.catalogue["prune-ledger"]
    tick(prune, prune.occurrence_at(runtime.store.clock() - LATE))
    assert checks.clocks(runtime) == "no run is missing for the last tick of 2 jobs"


def test_an_inngest_that_does_not_say() -> None:
    """An older dev server has only its summary."""
    app = Flask("old")
    summary: list[Any] = [{"slug": "switchyard-strange", "id": "uuid"}]
    app.get("/dev", endpoint="dev")(lambda: jsonify(functions=summary))
    with serve_in_thread(app) as url:
        old = settled(inngest_dev=url, switchyard_jobs="app.switchyard.maintenance")
        with pytest.raises(CheckFailed, match=r"not in this code: \['strange'\]"):
            checks.inngest_functions(old)


def test_inngest_without_its_key() -> None:
    """Wrong ones are in test_inngest_reasons."""
    without = settled(stripe_api_key=SecretStr("sk_test_x"))
    with pytest.raises(CheckFailed, match="INNGEST_EVENT_KEY is not set"):
        checks.inngest_key(without)


def test_qstash() -> None:
    with pytest.raises(CheckFailed, match="QSTASH_TOKEN is not set"):
        checks.qstash_token(settled())
    with QStashStandIn("right", CURRENT_KEY) as standin:

        def having(token: str) -> Runtime:
            return settled(
                qstash_url=standin.url,
                qstash_token=SecretStr(token),
                qstash_current_signing_key=SecretStr(CURRENT_KEY),
                qstash_next_signing_key=SecretStr(NEXT_KEY),
                backend_url=CLOSED,
                switchyard_jobs="app.platform.earnings.jobs",
            )

        with pytest.raises(BackendUnavailable, match="401"):
            checks.qstash_token(having("wrong"))
        right = having("right")
        assert checks.qstash_token(right)
        with pytest.raises(CheckFailed, match="missing there"):
            checks.qstash_schedules(right)
        sync(right)
        assert "there and here" in checks.qstash_schedules(right)


def test_qstash_where_no_job_goes_there() -> None:
    """In an app on Inngest alone, its checks hold, and say why."""
    unused = settled(switchyard_jobs="app.switchyard.maintenance")
    held = [check.look(unused) for check in checks.CHECKS if "qstash" in check.name]
    assert len(held) == 3
    assert {said.partition(":")[0] for said in held} == {"not used"}


def test_mail(runtime: Runtime) -> None:
    assert "local mode" in platform_checks.mail(runtime)
    with served(login=True) as box:
        box.accepts = (b"me", b"right")
        right, wrong = (
            Mailer(box.server(user="me", password=SecretStr(password)), "a@example.com")
            for password in ("right", SECRET)
        )
        right.check()
        with pytest.raises(SwitchyardError) as refused:
            wrong.check()
        assert (SECRET in str(refused.value), box.mails) == (False, [])


@pytest.mark.parametrize("opened", [None, "/api/qstash/deliver", "/api/webhooks/stripe"])
def test_unsigned_calls_must_be_refused(opened: str | None) -> None:
    app = Flask("outside")
    for path in ("/api/inngest", "/api/qstash/deliver", "/api/webhooks/stripe"):
        status = 200 if path == opened else 401
        app.post(path, endpoint=path)(lambda status=status: ("", status))
    app.post("/api/inngest/trigger", endpoint="trigger")(lambda: ("", 401))
    app.get("/healthz", endpoint="health")(lambda: "ok")
    with serve_in_thread(app) as url:
        there = settled(backend_url=url, stripe_api_key=SecretStr("sk_test_x"))
        assert checks.address(there) == "/healthz answers"
        if opened is None:
            assert checks.signatures(there) == "unsigned calls are refused"
            assert platform_checks.webhooks(there) == "unsigned calls are refused"
        else:
            check = platform_checks.webhooks if "webhooks" in opened else checks.signatures
            with pytest.raises(CheckFailed, match=f"not refuse.*{opened}|{opened} did not refuse"):
                check(there)
    with pytest.raises(CheckFailed, match="BACKEND_URL is not set"):
        checks.address(settled())


def test_the_command_says_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to be reached: every check ends, and none shows a key."""
    monkeypatch.setattr(checks, "CANARY_SECONDS", 0.2)
    key = SECRET
    environ = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}",
        "REDIS_URL": f"redis://:{key}@127.0.0.1:1/0",
        "INNGEST_EVENT_KEY": key,
        "INNGEST_SIGNING_KEY": "signkey-prod-" + "abcdef01" * 8,
        "INNGEST_BASE_URL": CLOSED,
        "QSTASH_TOKEN": key,
        "QSTASH_URL": CLOSED,
        "QSTASH_CURRENT_SIGNING_KEY": key,
        "QSTASH_NEXT_SIGNING_KEY": key,
        "STRIPE_API_KEY": f"sk_test_{key}",
        "STRIPE_API_BASE": CLOSED,
        "UPSTASH_REDIS_REST_URL": CLOSED,
        "UPSTASH_REDIS_REST_TOKEN": key,
        "SMTP_URL": f"smtp://me:{key}@127.0.0.1:1",
        "BACKEND_URL": CLOSED,
    }
    app = build(load(environ))
    began = time.monotonic()
    result = app.test_cli_runner().invoke(args=["cutover", "verify", "--json"])
    app.extensions["switchyard"].db.dispose()
    assert result.exit_code == 1, result.output
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert key not in result.output
    assert "abcdef" not in result.output
    answers = {answer["check"]: answer for answer in json.loads(result.stdout)}
    assert answers.pop("sdks")["ok"]
    assert len(answers) == 21
    assert not any(answer["ok"] for answer in answers.values()), answers
    assert all(answer["fix"] and answer["detail"] for answer in answers.values())

"""The guardrail on a ledger: it steps back once, with word of it, and only when it should."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select

import flags
from app.platform.gateways import Gateways
from app.platform.gateways.hooks import Hook
from app.switchyard import audit
from app.switchyard.audit import GUARDRAIL, By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import guardrail, stages
from app.switchyard.cutover.guardrail import look
from app.switchyard.cutover.stages import obstacles
from app.switchyard.db import Database
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from tests.support.plans import analyze, plans, sent
from tests.support.receiver import receiving
from tests.support.rows import run_row
from tests.support.sides import decide_by, ledger
from tests.support.site import mount

JOBS = "tests.support.jobs,app.switchyard.maintenance,app.platform.mail.admins"
JOB = "five-steps"
HOUR = timedelta(hours=1)


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with ledger(database_url, MemoryBackend("rq"), SWITCHYARD_JOBS=JOBS) as runtime:
        load = lambda: stages.current_stages(runtime.db)  # noqa: E731
        decide_by(flags.Flags(load, lambda job: "inngest", environ={}))
        yield runtime


def moved(runtime: Runtime, stage: str, percent: float | None, ago: timedelta) -> int:
    when = utcnow() - ago
    change = stages.set_stage(runtime.db, JOB, stage, percent, By("t", "w"), when)
    return change.id


def ran(
    db: Database,
    backend: str,
    statuses: Sequence[str],
    *,
    seconds: float = 1.0,
    ago: timedelta = timedelta(minutes=30),
    job: str = JOB,
    **more: Any,
) -> None:
    """Write runs that ended in these statuses, one a second, the first of them so long ago."""
    now = utcnow()
    rows = []
    with db.begin() as connection:
        before = len(connection.execute(select(R.id)).all())
        for number, status in enumerate(statuses):
            created = now - ago + timedelta(seconds=number)
            over = status in ("succeeded", "failed", "cancelled")
            ended = created + timedelta(seconds=seconds + number % 7 / 10)
            row = run_row(f"r{before + number:06}", job, created, backend=backend, status=status)
            row["check_at"] = None if over else now + HOUR
            row["ended_at"] = ended if over else None
            rows.append(row | more)
        connection.execute(insert(R), rows)


def standing(runtime: Runtime) -> tuple[str, float | None]:
    (row,) = stages.current_stages(runtime.db)
    return row.stage, row.percent


FINE = ["succeeded"] * 60
BAD = ["failed", "succeeded"] * 30


def test_failing_runs_step_it_back_until_it_is_legacy(runtime: Runtime) -> None:
    moved(runtime, "live", None, 2 * HOUR)
    ran(runtime.db, "rq", FINE, ago=5 * HOUR)
    ran(runtime.db, "inngest", BAD)
    (change,) = look(runtime)
    assert (change.from_stage, change.to_stage, change.percent) == ("live", "ramp", 10.0)
    assert (change.by, change.why) == (
        GUARDRAIL,
        "failed runs: 30 of 60 (50.0 %) serverless, 0 of 60 (0.0 %) on rq",
    )
    # The same runs are not held against it again.
    assert look(runtime) == []
    with runtime.db.begin() as connection:
        long_ago = utcnow() - HOUR
        table: Any = stages.StageChange.__table__
        connection.execute(table.update().values(at=long_ago))
    ran(runtime.db, "inngest", BAD)
    (change,) = look(runtime)
    assert (change.from_stage, change.to_stage) == ("ramp", "legacy")
    ran(runtime.db, "inngest", BAD)
    assert look(runtime) == []
    assert "guardrail fired" in "".join(obstacles(runtime.db, JOB, utcnow()))


@pytest.mark.parametrize(
    ("seconds", "statuses", "more"),
    [(30.0, FINE, {}), (0.0, ["running"] * 60, {"started_at": None})],
)
def test_slow_and_stuck_runs_are_a_breach(
    runtime: Runtime, seconds: float, statuses: list[str], more: dict[str, Any]
) -> None:
    moved(runtime, "ramp", 50.0, 2 * HOUR)
    ran(runtime.db, "rq", FINE)
    ran(runtime.db, "inngest", statuses, seconds=seconds, **more)
    (change,) = look(runtime)
    assert (change.to_stage, change.percent) == ("ramp", 10.0)
    assert change.why.startswith("slow runs: median of 60 serverless")


def test_what_does_not_count(runtime: Runtime) -> None:
    moved(runtime, "live", None, 45 * timedelta(minutes=1))
    ran(runtime.db, "rq", FINE, ago=5 * HOUR)
    # From before the last move, another job's, another side's, handed over, cancelled, too few.
    ran(runtime.db, "inngest", BAD, ago=50 * timedelta(minutes=1), seconds=900)
    ran(runtime.db, "inngest", BAD, job="slow")
    ran(runtime.db, "qstash", BAD)
    ran(runtime.db, "inngest", BAD, reason="HANDED_OVER")
    ran(runtime.db, "inngest", ["cancelled"] * 60)
    ran(runtime.db, "inngest", BAD[: guardrail.FEWEST - 1])
    assert look(runtime) == []
    ran(runtime.db, "inngest", BAD)
    assert len(look(runtime)) == 1


def test_without_a_past_there_is_nothing_to_be_worse_than(runtime: Runtime) -> None:
    moved(runtime, "live", None, 2 * HOUR)
    ran(runtime.db, "rq", FINE, ago=timedelta(days=31))
    ran(runtime.db, "inngest", BAD)
    assert look(runtime) == []


def test_quick_failures_are_not_the_whole_before_the_slow_ones_have_ended(
    runtime: Runtime,
) -> None:
    """A run takes ten minutes, or fails at once, on both sides alike."""
    moved(runtime, "live", None, timedelta(minutes=9))
    ran(runtime.db, "rq", ["succeeded"] * 300, seconds=600, ago=3 * HOUR)
    ran(runtime.db, "rq", ["failed"] * 40, seconds=0.1, ago=3 * HOUR)
    ran(runtime.db, "inngest", ["failed"] * 40, seconds=0.1, ago=timedelta(minutes=8))
    ran(runtime.db, "inngest", ["waiting"] * 300, ago=timedelta(minutes=8))
    assert look(runtime) == []


def test_a_busy_hour_is_shortened(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardrail, "MOST", 100)
    moved(runtime, "live", None, 2 * HOUR)
    ran(runtime.db, "rq", FINE, ago=5 * HOUR)
    ran(runtime.db, "inngest", BAD * 10, ago=timedelta(minutes=50))
    ran(runtime.db, "inngest", FINE * 10, ago=timedelta(minutes=12))
    assert look(runtime) == []


def test_two_relays_at_once_step_back_once(runtime: Runtime) -> None:
    moved(runtime, "live", None, 2 * HOUR)
    ran(runtime.db, "rq", FINE)
    ran(runtime.db, "inngest", BAD)
    with ThreadPoolExecutor(4) as pool:
        steps = [
            step
            for look_ in [pool.submit(look, runtime) for _ in range(4)]
            for step in look_.result()
        ]
    assert len(steps) == 1
    assert len(audit.history(runtime.db, act="stage")) == 2
    assert standing(runtime) == ("ramp", 10.0)


def test_word_of_it_goes_out(runtime: Runtime) -> None:
    moved(runtime, "live", None, 2 * HOUR)
    ran(runtime.db, "rq", FINE)
    ran(runtime.db, "inngest", BAD)
    (change,) = look(runtime)
    with receiving() as receiver:
        old = runtime.engine.gateways
        notified = Gateways(
            stripe=old.stripe,
            admin_hook=Hook(url=receiver.address),
        )
        memory: Any = runtime.store.backends["rq"]
        memory.work(Engine(runtime.store, notified, runtime.engine.leases))
        ((_, headers, sent),) = receiver.got
    body = json.loads(sent)
    assert body["type"] == "cutover.stepped_back"
    assert headers["webhook-id"] == f"guardrail-{change.id}"
    stepped = {"job": JOB, "from": "live", "to": "ramp", "percent": 10.0}
    assert body["data"] | stepped == body["data"]
    [alert] = runtime.db.rows(select(R.status, R.result).where(R.job == guardrail.ALERT))
    assert (alert.status, json.loads(alert.result)) == (
        "succeeded",
        {"mail": {"sent": False, "why": "off"}, "webhook": {"sent": True}},
    )
    app = Flask("metrics")
    mount(app, runtime)
    metrics = app.test_client().get("/metrics").text
    assert f'switchyard_guardrail_steps_total{{job="{JOB}"}} 1' in metrics


def test_it_reads_its_indexes(runtime: Runtime) -> None:
    moved(runtime, "live", None, 2 * HOUR)
    for job in (JOB, "slow", "noop"):
        ran(runtime.db, "rq", FINE * 30, ago=5 * HOUR, job=job)
        ran(runtime.db, "inngest", FINE * 30, ago=50 * timedelta(minutes=1), job=job)
    analyze(runtime.db)
    with sent(runtime.db.engine) as statements:
        look(runtime)
    chosen = [each for each in statements if " switchyard_runs" in each[0]]
    assert len(chosen) == 4
    for how in plans(runtime.db, chosen):
        assert "ix_switchyard_runs_ended" in how or "ix_switchyard_runs_open" in how

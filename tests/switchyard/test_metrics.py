"""/metrics: what it says, that it counts each thing once, and what it reads for that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, insert
from sqlalchemy.exc import OperationalError

from app.platform.config import ROOT, load
from app.switchyard import metrics, runtime
from app.switchyard.audit import By
from app.switchyard.clock import utcnow
from app.switchyard.cutover import shadow
from app.switchyard.cutover.shadow import Parity
from app.switchyard.cutover.stages import set_stage
from app.switchyard.operations import counted, processes
from app.switchyard.operations.processes import ProcessRow
from app.switchyard.runs import relay
from app.switchyard.runs.models import TAKEN_OVER, FailureRow, HandoffRow, RunRow
from queues.backend import RQBackend
from tests.support.plans import plan_if_large
from tests.support.rows import run_row
from tests.support.sides import app_on, build, environment
from tests.support.waiting import until

SECOND = timedelta(seconds=1)
JOBS = ["noop", "child"]
Samples = dict[str, float]


@pytest.fixture
def client(database_url: str) -> Iterator[FlaskClient]:
    with app_on(environment(database_url, "redis://127.0.0.1:1/0")) as app:
        yield app.test_client()


def samples(client: FlaskClient) -> Samples:
    """What a scrape gives, each sample by its name and its labels' values, job and side first."""
    text = client.get("/metrics").text

    def named(name: str, labels: dict[str, str]) -> str:
        first = [labels.pop(label) for label in ("job", "backend") if label in labels]
        return " ".join([name.removeprefix("switchyard_"), *first, *labels.values()])

    return {
        named(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def put(model: Any, *rows: dict[str, Any]) -> None:
    with runtime.current().db.begin() as connection:
        for row in rows:  # each with columns of its own
            connection.execute(insert(model), row)


def ended(number: int, at: datetime, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    """A run that was claimed after 2 s and ended 20 s later."""
    times = {"due_at": at - 22 * SECOND, "started_at": at - 20 * SECOND, "ended_at": at}
    return run_row(f"{number:026}", "noop", at, **{"status": status, **times, **more})


def test_what_has_happened_is_counted_once(client: FlaskClient) -> None:
    db, begin = runtime.current().db, utcnow() - timedelta(minutes=10)
    put(RunRow, ended(0, begin - timedelta(hours=1)))  # before anybody scraped
    counted.count(db, JOBS, begin)
    at = begin + 60 * SECOND
    put(
        RunRow,
        ended(1, at),
        ended(2, at + SECOND, "failed", backend="inngest"),
        ended(3, at + SECOND, "cancelled", started_at=None),
        ended(4, at + 2 * SECOND, due_at=at),  # it was given back in between
    )
    failure = {"run_id": f"{1:026}", "job": "noop", "backend": "rq", "attempt": 1, "message": ""}
    put(
        FailureRow,
        {**failure, "at": at, "error": "ValueError"},
        {**failure, "at": at, "error": TAKEN_OVER},
    )
    sides = {"from_backend": "rq", "to_backend": "inngest"}
    put(HandoffRow, {"run_id": f"{1:026}", "job": "noop", "at": at, "epoch": 3, **sides})
    with ThreadPoolExecutor() as pool:  # several processes are asked at the same time
        list(pool.map(lambda _: counted.count(db, JOBS, at + 60 * SECOND), range(4)))
    says = samples(client)
    tallies = {
        "ended_runs_total noop rq succeeded": 2,
        "ended_runs_total noop inngest failed": 1,
        "ended_runs_total noop rq cancelled": 1,
        "ended_runs_total child rq succeeded": 0,
        "failed_attempts_total noop rq": 1,
        "takeovers_total noop rq": 1,
        "resends_total noop rq": 0,
        "handoffs_total noop rq inngest": 1,
    }
    assert says | tallies == says
    buckets = [says[f"queue_wait_seconds_bucket noop rq {le}"] for le in ("1.0", "2.5", "+Inf")]
    assert buckets == [0, 1, 1]
    assert says["queue_wait_seconds_sum noop rq"] == pytest.approx(2, abs=0.001)
    assert (says["run_seconds_bucket noop rq 15.0"], says["run_seconds_count noop rq"]) == (0, 2)


def test_a_run_that_was_lost_is_tallied(client: FlaskClient) -> None:
    store, now = runtime.current().store, utcnow()
    still: dict[str, Any] = {
        "status": "pending",
        "ended_at": None,
        "started_at": None,
        "check_at": now,
    }
    put(RunRow, ended(1, now, **still, send_at=now), ended(2, now, **still))
    with patch.object(RQBackend, "ping"), patch.object(RQBackend, "queued", return_value=set()):
        assert relay.sweep(store).sent == 2
    assert samples(client)["resends_total noop rq"] == 1


def test_a_run_that_was_lost_is_sent_whatever_becomes_of_its_tally(client: FlaskClient) -> None:
    store, now = runtime.current().store, utcnow()
    put(RunRow, ended(1, now, "pending", ended_at=None, started_at=None, check_at=now))
    gone = OperationalError("INSERT", {}, Exception("no such table: switchyard_tallies"))
    with (
        patch.object(RQBackend, "queued", return_value=set()),
        patch.object(RQBackend, "send", return_value={}) as send,
        patch.object(relay, "add", side_effect=gone),
        pytest.raises(OperationalError),
    ):
        relay.sweep(store)
    [[message]] = send.call_args.args
    assert message.run_id == f"{1:026}"


def test_how_things_stand(client: FlaskClient) -> None:
    made, now = runtime.current(), utcnow()
    still = {"ended_at": None, "check_at": now, "started_at": None}
    put(
        RunRow,
        ended(1, now, "pending", **still, due_at=now - 300 * SECOND),
        ended(2, now, "waiting", **still, due_at=now + 300 * SECOND),
        ended(3, now, "running", **still, due_at=now - 600 * SECOND),
    )
    process = {
        "kind": "relay",
        "host": "h",
        "pid": 1,
        "version": "1",
        "doing": "",
        "started_at": now,
    }
    put(
        ProcessRow,
        {**process, "id": "1", "seen_at": now},
        {**process, "id": "2", "seen_at": now - 60 * SECOND},
        {**process, "id": "3", "seen_at": now - 60 * SECOND, "kind": "clock"},
    )
    shadow = {"job": "noop", "planned_at": now, "differing": 1, "kind": "different"}
    put(Parity, {**shadow, "run_id": "1"}, {**shadow, "run_id": "2", "explained_at": now})
    set_stage(made.db, "noop", "ramp", 12.5, By("ada", "slowly"), now)
    until(lambda: "backend_up rq" in samples(client))
    says = samples(client)
    assert [says[f"open_runs noop rq {status}"] for status in ("pending", "running")] == [1, 1]
    assert says["overdue_runs noop rq"] == 1
    assert says["guardrail_steps_total noop"] == 0
    assert 300 <= says["overdue_oldest_seconds noop rq"] < 400
    assert [says[f"processes {kind}"] for kind in processes.KINDS] == [0, 0, 1, 0]
    assert (says["stage noop ramp"], says["stage child legacy"]) == (1, 1)
    assert (says["stage_percent noop"], says["stage_percent child"]) == (12.5, 0)
    assert (says["parity_unexplained noop"], says["parity_unexplained child"]) == (1, 0)
    assert (says["database_up"], says["backend_up rq"]) == (1, 0)


def test_the_page_names_each_of_them(client: FlaskClient) -> None:
    until(lambda: "backend_up rq" in samples(client))
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    given = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    table = re.findall(
        r"^\| (`.*?) \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE
    )
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert {f"switchyard_{name}" for name in named} == given


def test_without_a_database_it_says_so(client: FlaskClient) -> None:
    until(lambda: "database_up" in samples(client))

    def refuse(*_args: Any) -> None:
        raise OperationalError("", None, ConnectionRefusedError("refused"))

    event.listen(runtime.current().db.engine, "before_cursor_execute", refuse)
    until(lambda: samples(client)["database_up"] == 0)
    assert {name.split()[0] for name in samples(client)} == {"database_up", "backend_up"}


def test_a_token_closes_it(database_url: str) -> None:
    token = "0123456789abcdef-metrics"
    environ = environment(database_url, "redis://127.0.0.1:1/0", METRICS_TOKEN=token)
    client = build(load(environ)).test_client()
    for given, status in ((None, 401), ("Bearer no", 401), (f"Bearer {token}", 200)):
        headers = {} if given is None else {"Authorization": given}
        assert client.get("/metrics", headers=headers).status_code == status
    runtime.current().db.dispose()


def test_what_it_reads_does_not_grow_with_the_ledger(client: FlaskClient) -> None:
    db, now = runtime.current().db, utcnow()
    span: dict[str, Any] = {"since": now - SECOND, "until": now}
    indexes = ["runs_ended", "runs_cancelled", *2 * ["failures_job"], "handoffs_job"]
    asked = [
        (index, statement, span)
        for index, statement in zip(
            indexes, counted.statements(db.engine.dialect.name, JOBS), strict=True
        )
    ]
    asked.append(("runs_open", metrics.OPENED, {"late": now}))
    # SQLite has the time of the explanation in the index by kind.
    unexplained = "parity_kind" if db.is_sqlite else "parity_unexplained"
    asked += [(index, shadow.COUNTS, {"most": 1}) for index in ("parity_latest", unexplained)]
    for index, statement, bound in asked:
        assert f"ix_switchyard_{index}" in (plan := plan_if_large(db, statement, **bound)), plan

"""What every backend promises for an adopted function: called as RQ called it, and once."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

from tests.support import tasks
from tests.support.sides import Side


def test_it_is_given_its_arguments_in_its_own_types(on: Side) -> None:
    order = tasks.Order(placed=date(2026, 2, 28), lines=[tasks.Line("tea", Decimal("4.10"))] * 2)
    least = {"order": order, "at": datetime(2026, 3, 1, 12, tzinfo=UTC), "ref": uuid4()}
    more = {"note": "n", "level": tasks.Level.HIGH, "wait": timedelta(seconds=2)}
    run = on.dispatch("settle", least)
    full = on.dispatch("settle", {**least, **more, "shares": {7: "1.5"}})
    first, second = on.finish(run, full)
    said = [4, "2026-03-01", "8.20", "2026-03-01T12:00:00Z"]
    assert json.loads(first.result) == [*said, None, "LOW", 300.0, {}]
    assert json.loads(second.result) == [*said, "n", "HIGH", 2.0, {"8": "1.5"}]


def test_it_is_called_once_and_retried_where_it_fails(on: Side, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("once", "thrice")]
    runs = [
        on.dispatch("count-up", {"path": path, "fail_times": times})
        for path, times in zip(paths, (0, 2), strict=True)
    ]
    rows = on.finish(*runs)
    assert [json.loads(row.result) for row in rows] == [1, 3]
    assert [set(on.steps(run.id)) for run in runs] == [{"count_up"}] * 2


def test_an_async_one_is_awaited_and_a_result_that_is_no_json_is_none(on: Side) -> None:
    rows = on.finish(on.dispatch("after-all", {"n": 1}), on.dispatch("handle", {}))
    assert [(row.status, json.loads(row.result)) for row in rows] == [
        ("succeeded", 2),
        ("succeeded", None),
    ]


def test_rqs_current_job_is_the_run(on: Side) -> None:
    key = f"job-{uuid4().hex}"
    run = on.dispatch("seen", {"times": 2}, key=key, meta={"who": "ada", "seen": 5})
    plain = on.dispatch("seen", {"times": 2, "note": "n"})
    rows = on.finish(run, plain)
    at = "tests.support.tasks.seen"
    meta = [{"who": "ada", "seen": 6}, {"seen": 2}]
    assert [json.loads(row.result) for row in rows] == [
        [key, "tests", at, {"times": 2}, meta[0], "started"],
        [plain.id, "tests", at, {"times": 2, "note": "n"}, meta[1], "started"],
    ]
    assert [json.loads(row.meta) for row in rows] == meta
    assert [json.loads(row.progress)["n"] for row in rows] == [1, 1]

"""What charts are drawn from: counts by time and side, percentiles, errors, and a run's bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import event, insert

from app.switchyard.console import charts
from app.switchyard.console.waterfall import Scale, waterfall
from app.switchyard.db import Database
from app.switchyard.operations import trends
from app.switchyard.runs.models import FailureRow, RunRow, id_at
from app.switchyard.words import ago, duration, number, plural
from flags import Side
from tests.support.rows import run_row

NOW = datetime(2031, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NUMBERS = count()


def ended(db: Database, minutes: float, took: float = 1.0, **more: Any) -> str:
    """A run of `mail` that ended so many minutes before NOW, after so many seconds."""
    at = NOW - minutes * MINUTE
    run_id = f"{id_at(at)}{next(NUMBERS):014x}"
    values = run_row(run_id, "mail", at - timedelta(seconds=took), **{"epoch": 2, **more})
    values |= {"ended_at": at, "stage": "ramp"}
    with db.autocommit() as connection:
        connection.execute(insert(RunRow), values)
    return run_id


def test_counts_are_by_bucket_and_side_and_nothing_older(db: Database) -> None:
    cases: tuple[tuple[float, dict[str, Any]], ...] = (
        (0.5, {}),
        (0.6, {"status": "failed"}),
        (59.5, {"backend": "inngest"}),
        (59.6, {"backend": "qstash"}),
        (61, {}),
        (5, {"status": "cancelled"}),
    )
    for minutes, more in cases:
        ended(db, minutes, **more)
    shown = trends.trends(db, ["mail", "none"], NOW, MINUTE, 60)
    rq, serverless = shown["mail"][Side.RQ], shown["mail"][Side.SERVERLESS]
    assert (rq.succeeded[-1], rq.failed[-1], rq.runs) == (1, 1, 2)
    assert (serverless.succeeded[0], serverless.runs) == (2, 2)
    assert shown["none"][Side.RQ].runs == 0
    assert shown["none"][Side.RQ].percentile(50) is None


def test_one_that_fails_between_the_two_looks_is_one_run(db: Database) -> None:
    seen: list[str] = []

    def fails(_on: object, _cursor: object, statement: str, *_: object) -> None:
        if not seen and "ended_at" in statement:
            seen.append(statement)
            ended(db, 0.5, status="failed")

    event.listen(db.engine, "after_cursor_execute", fails)
    trend = trends.trends(db, ["mail"], NOW, MINUTE, 60)["mail"][Side.RQ]
    assert (trend.succeeded[-1], trend.failed[-1], trend.runs) == (0, 1, 1)


def test_percentiles_are_of_the_latest_and_of_each_span(db: Database) -> None:
    for seconds in range(1, 101):
        ended(db, 10 + seconds / 100, took=seconds)
    ended(db, 130, took=7, backend="inngest")
    latest = trends.trends(db, ["mail"], NOW, MINUTE, 60)["mail"][Side.RQ]
    assert (latest.percentile(50), latest.percentile(95)) == (50, 95)
    spans = trends.by_span(db, "mail", NOW, timedelta(hours=1), 3)
    assert spans == {Side.RQ: [None, None, (50, 95)], Side.SERVERLESS: [(7, 7), None, None]}


def test_errors_are_by_class_and_side_with_first_and_last_seen(db: Database) -> None:
    run = ended(db, 1)
    for minutes, error, message in (
        (90, "Timeout", "old"),
        (9, "Timeout", "a"),
        (2, "Timeout", "b"),
    ):
        failed = {"run_id": run, "job": "mail", "attempt": 1, "backend": "rq", "error": error}
        with db.autocommit() as connection:
            at = NOW - minutes * MINUTE
            connection.execute(insert(FailureRow).values(**failed, at=at, message=message))
    [row] = trends.errors(db, "mail", NOW - timedelta(hours=1))
    assert (row["error"], row["backend"], row["count"], row["message"]) == ("Timeout", "rq", 2, "b")
    assert (row["first"], row["last"]) == (NOW - 9 * MINUTE, NOW - 2 * MINUTE)


def test_bars_share_a_scale_and_the_least_can_be_seen() -> None:
    drawn = charts.bars(trends.Trend([100, 0], [0, 1]), trends.Trend([50, 0], [0, 0]))
    assert drawn.most == 100
    assert drawn.serverless == "M0 0H0.85V-100H0Z"
    assert drawn.serverless_failed == "M1 0H1.85V-3H1Z"
    assert (drawn.legacy, drawn.legacy_failed) == ("M0 0H0.85V50H0Z", "")
    assert charts.lines([(1, 2), None, (2, 4)], 4)[0].count("M") == 2


def test_a_long_sleep_leaves_room_for_what_was_done() -> None:
    scale = Scale(0, 86_402, [(0, 1), (86_401, 86_402)])
    assert (scale.broken, scale(1), scale(86_401)) == (True, 325, 675)
    assert Scale(0, 10, [(0, 9)])(5) == 500
    assert Scale(0, 0, [])(0) == 0
    assert [Scale(2, 10, [(0, 9)])(moment) for moment in (-1, 0, 5, 10, 11)] == [
        0,
        0,
        500,
        1000,
        1000,
    ]


def test_a_waterfall_has_each_attempt_and_hand_off() -> None:
    at = [NOW + timedelta(seconds=number) for number in range(10)]
    step = {"name": "pay", "status": "done", "attempts": 2, "backend": "rq", "until": None}
    failure = {"step": "pay", "attempt": 1, "backend": "inngest", "began_at": at[1], "at": at[2]}
    moved = {"at": at[3], "from_backend": "inngest", "to_backend": "rq", "epoch": 3}
    drawn = waterfall(
        {
            "created_at": at[0],
            "started_at": at[1],
            "ended_at": at[9],
            "handoffs": [moved],
            "failures": [failure | {"error": "Timeout", "message": "late"}],
            "steps": [step | {"began_at": at[4], "updated_at": at[9]}],
        },
        NOW,
    )
    queued, pay = drawn.lines
    assert (queued.name, queued.took()) == ("queued", 1)
    assert [(bar.kind, bar.backend) for bar in pay.bars] == [("failed", "inngest"), ("rq", "rq")]
    assert (pay.took(), drawn.broken) == (8, False)
    assert 300 < float(drawn.handoffs[0]["x"]) < 400


def test_times_are_said_shortly() -> None:
    lengths = (0.004, 0.3, 9.96, 61, 599, 3700, 90_000)
    assert [duration(one) for one in lengths] == (
        ["4 ms", "0.3 s", "10 s", "1 min", "10 min", "1 h", "1 d"]
    )
    assert ago(NOW - timedelta(seconds=5), NOW) == "5 s ago"
    assert ago(NOW + MINUTE * 3, NOW) == "in 3 min"
    assert ago(None, NOW) == "–"


def test_a_noun_follows_its_count() -> None:
    said = [plural(count, "open run") for count in (0, 1, 2, 1200)]
    assert said == ["0 open runs", "1 open run", "2 open runs", "1200 open runs"]
    assert plural(1200, "run", number) == "1\u202f200 runs"

"""What the Inngest stand-in refuses: events, registrations and crons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.local.inngest.events import accept
from app.local.inngest.functions import parse_registration

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "inngest_exchanges.json").read_text()
)[0]["request"]
URL = "http://127.0.0.1:1/api/inngest"


@pytest.mark.parametrize(
    "event",
    [
        *("{", "1", "{}", '{"name": ""}', '{"name": 1}'),
        *('{"name": "inngest/function.failed"}', '{"name": "Inngest/x"}'),
        *('{"name": "a", "data": []}', '{"name": "a", "data": {"x": NaN}}'),
        *(f'{{"name": "a", "ts": {ts}}}' for ts in ('"now"', "1.5", "1700000000")),
        '{"name": "a", "more": 1}',
        '{"name": "a", "data": {"n": 1' + "0" * 400 + "}}",
        '{"name": "a", "data": {"x": "' + "x" * 3 * 1024 * 1024 + '"}}',
    ],
)
def test_an_event_that_is_not_right_is_refused(event: str) -> None:
    accepted, reason = accept(event.encode(), None, 1_900_000_000)
    assert (accepted, bool(reason)) == ([], True)


def a_registration(url: str = URL, attempts: int = 0, **more: Any) -> dict[str, Any]:
    step = {"id": "step", "name": "step", "retries": {"attempts": attempts}}
    step["runtime"] = {"type": "http", "url": f"{url}?fnId=app-x&stepId=step"}
    function: dict[str, Any] = {"id": "app-x", "name": "x", "steps": {"step": step}}
    function["triggers"] = [{"event": "demo.x"}]
    return RECORDED | {"appname": "app", "url": url, "functions": [function | more]}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"id": "other-x"}, "id must be"),
        ({"name": ""}, "name"),
        ({"steps": {}}, "steps"),
        ({"triggers": []}, "triggers"),
        ({"triggers": [{}]}, "either an event or a cron"),
        ({"triggers": [{"event": "e", "cron": "* * * * *"}]}, "either"),
        ({"triggers": [{"event": "inngest/function.failed"}]}, "does not send"),
        ({"triggers": [{"event": "e", "expression": "event.data.k == 1"}]}, "expression: the sta"),
        ({"triggers": [{"event": "e"}] * 2}, "duplicate trigger e"),
        ({"triggers": [{"event": f"e{n}"} for n in range(11)]}, "triggers"),
        ({"concurrency": [{"limit": 0}]}, "limit"),
        ({"concurrency": [{"limit": 1, "key": "event.data.k"}]}, "key"),
        ({"concurrency": [{"limit": 1}, {"limit": 2}]}, "concurrency"),
        *[
            ({key: {}}, f"{key}: the stand-in does not do this")
            for key in ("cancel", "timeouts", "idempotency", "debounce", "priority", "unheardOf")
        ],
    ],
)
def test_a_registration_that_is_not_right_is_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_registration(a_registration(**more))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        *((None, "valid"), ([], "valid"), ({}, "required")),
        (a_registration(attempts=21), "attempts"),
        (a_registration() | {"v": "2"}, "v: "),
        (a_registration("http://example.com/api/inngest"), "loopback"),
    ],
)
def test_more_registrations_are_refused(body: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_registration(body)


@pytest.mark.parametrize(
    "cron",
    [
        *("* * * * *", "0 9 1,15 * *", "*/5 0-6/2 * JAN-MAR MON-FRI", "0 0 ? * SUN", "0 7 17 7 *"),
        "TZ=UTC 0 0 * * 0",
    ],
)
def test_a_cron_that_the_real_server_takes(cron: str) -> None:
    parse_registration(a_registration(triggers=[{"cron": cron}]))


@pytest.mark.parametrize(
    "cron",
    [
        *("61 * * * *", "TZ=Mars 0 0 * * *", "* * * *", "0 0 * * * *", "@daily", "*/0 * * * *"),
        *("0 9 * * 7", "0 9 * * 5-7", "0 9 * * 6-0", "0 22-2 * * *", "0 0 * * FRI-SUN"),
        *("0 0 * * sun#1", "0 0 L * *"),
    ],
)
def test_a_cron_that_the_real_server_refuses(cron: str) -> None:
    """One such cron fails the sync of all functions."""
    with pytest.raises(ValueError, match="invalid cron"):
        parse_registration(a_registration(triggers=[{"cron": cron}]))

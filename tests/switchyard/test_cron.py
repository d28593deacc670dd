"""Cron lines: what one side would refuse is translated, or refused where it is declared."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from croniter import croniter
from inngest import Inngest, TriggerCron

from app.local.inngest.functions import _is_cron
from app.switchyard.cron import portable
from app.switchyard.errors import SettingsError
from app.switchyard.job import Catalogue, Empty, job, load
from workflows.functions import make_functions


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("0 9 1,15 * *", "0 9 1,15 * *"),
        ("*/5 * * * *", "*/5 * * * *"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("0 9 * * 5-7", "0 9 * * 0,5,6"),
        ("0 9 * * 6-0", "0 9 * * 0,6"),
        ("0 9 * * sat-sun", "0 9 * * 0,6"),
        ("0 9 * * MON-FRI", "0 9 * * 1-5"),
        ("0 22-2 * * *", "0 0,1,2,22,23 * * *"),
        ("50-10/5 * * * *", "0,5,10,50,55 * * * *"),
        ("0 0 ? * ?", "0 0 * * *"),
        ("0 0 1 nov-feb *", "0 0 1 1,2,11,12 *"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("0 9 1 * 0-6", "0 9 1 * 0,1,2,3,4,5,6"),
        ("0 9 1 * */1", "0 9 1 * 0,1,2,3,4,5,6"),
        ("*/1 */1 * * 1-5", "*/1 */1 * * 1-5"),
    ],
)
def test_what_is_sent_says_the_same(line: str, sent: str) -> None:
    assert portable(line) == sent
    assert _is_cron(f"TZ=UTC {sent}")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ours, theirs = croniter(line, start), croniter(sent, start)
    assert [ours.get_next() for _ in range(50)] == [theirs.get_next() for _ in range(50)]


def test_it_is_registered_in_those_words() -> None:
    spec = replace(load("tests.support.jobs")["keyed"], schedule="0 9 * * 7")
    runtime: Any = SimpleNamespace(catalogue={spec.name: spec})
    functions = make_functions(Inngest(app_id="x", is_production=False), runtime)
    triggers = [trigger for f in functions for trigger in f.get_config("http://x").main.triggers]
    crons = [trigger.cron for trigger in triggers if isinstance(trigger, TriggerCron)]
    assert crons == ["TZ=UTC 0 9 * * 0"]


def test_whatever_is_taken_every_side_takes() -> None:
    chance = random.Random(7)
    words = ["*", "7", "0", "1-5", "5-7", "22-2", "*/7", "sun", "sat-mon", "1,3", "2/2", "?", "L"]
    words += ["sun#1", "15W", "nov-feb", "R", "H", "00", "60", "*/0", "1-5/2", "0-7"]
    taken = 0
    for _ in range(3000):
        line = " ".join(chance.choice(words) for _ in range(5))
        try:
            sent = portable(line)
        except ValueError:
            continue
        taken += 1
        assert _is_cron(sent), (line, sent)
    assert taken > 20


@pytest.mark.parametrize(
    "line",
    [
        "0 9 * * sun#1",
        "0 0 L * *",
        "0 0 15W * *",
        "R R * * *",
        "0 0 31 2 *",
        "@daily",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
    ],
)
def test_what_a_side_cannot_do_is_refused_where_it_is_declared(line: str) -> None:
    declared = job("odd", event="e", payload=Empty, schedule=line)(lambda _ctx, _payload: None)
    with pytest.raises(SettingsError, match="job 'odd': schedule"):
        Catalogue().add(declared.switchyard_job)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "event"),
    [
        *(("odd", event) for event in ("", "inngest/x", "Inngest/x", "odd.*", "*", "a b", "a\n")),
        *(("odd", event) for event in ("\0", "\ud800", "e" * 201)),
        # QStash refuses a batch with one bad flow control key whole.
        *((name, "e") for name in ("inngest-run-cancelled", "a b", "", "a/b", "a:b", "ä", "a\n")),
    ],
)
def test_so_is_a_name_that_would_fail_the_sync_of_all_jobs_or_start_others(
    name: str, event: str
) -> None:
    declared = job(name, event=event, payload=Empty)(lambda _ctx, _payload: None)
    with pytest.raises(SettingsError, match=r"event has at most|name has at most"):
        Catalogue().add(declared.switchyard_job)  # type: ignore[attr-defined]

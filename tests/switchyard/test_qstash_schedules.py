"""Schedules as code, and the ticks they make: one run for each occurrence, whichever clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from qstash import QStash
from qstash.schedule import Schedule
from sqlalchemy import select

from app.platform.config import load
from app.switchyard.cutover.clock import tick
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime, current, install
from tests.support import jobs
from tests.support.sides import Fixed, Side, build, decide_by, environment, qstash_side
from tests.support.waiting import PATIENCE_SECONDS
from tests.switchyard.test_qstash_side import standin
from workflows.qstash import ID_PREFIX, make_client
from workflows.schedules import TRIGGER, schedule_job, schedule_payouts, sync

TICK = json.dumps({"name": "test.keyed", "data": {}}).encode()
HOURLY = "0 * * * *"


@pytest.fixture
def alone(tmp_path: Path, redis_url: str) -> Iterator[Side]:
    environ = environment(
        f"sqlite:///{tmp_path / 'test.db'}", redis_url, SWITCHYARD_JOBS=jobs.__name__
    )
    with qstash_side(environ, relay=False) as made:
        decide_by(Fixed("qstash"))
        yield made


def client(on: Side) -> QStash:
    return make_client(on.runtime.settings)


def with_jobs(runtime: Runtime, crons: dict[str, str | None]) -> Runtime:
    """The same parts with a catalogue of these jobs."""
    chosen = Catalogue()
    for name, cron in crons.items():
        spec = runtime.catalogue["noop"]
        chosen.add(replace(spec, name=name, event=f"on.{name}", schedule=cron))
    return replace(runtime, catalogue=chosen)


def here(crons: dict[str, str | None]) -> dict[str, str]:
    return {f"{ID_PREFIX}{name}": cron for name, cron in crons.items() if cron is not None}


def there(on: Side) -> dict[str, str]:
    return {s.schedule_id: s.cron for s in client(on).schedule.list()}


def listed(on: Side, schedule_id: str) -> Schedule:
    (found,) = [s for s in client(on).schedule.list() if s.schedule_id == schedule_id]
    return found


CRONS = st.sampled_from([None, HOURLY, "0 9 1,15 * *", "*/5 * * * *"])
CATALOGUES = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), CRONS)


def test_whatever_was_there_it_converges(alone: Side) -> None:
    client(alone).schedule.create_json(
        schedule_id="nightly", destination="http://127.0.0.1:9/x", cron="1 1 * * *", body="mine"
    )
    strange = listed(alone, "nightly")
    # One that bears our prefix by chance, and calls something else, is not ours either.
    client(alone).schedule.create(
        schedule_id=f"{ID_PREFIX}news", destination="http://127.0.0.1:9/x", cron="2 2 * * *"
    )
    known = client(alone)

    def there() -> dict[str, str]:
        return {s.schedule_id: s.cron for s in known.schedule.list()}

    others = there()

    @settings(max_examples=5)
    @given(before=CATALOGUES, after=CATALOGUES)
    def converges(before: dict[str, str | None], after: dict[str, str | None]) -> None:
        sync(with_jobs(alone.runtime, before))
        assert there() == others | here(before)
        made = with_jobs(alone.runtime, after)
        promised = sync(made, dry_run=True)
        assert there() == others | here(before)
        done = sync(made)
        assert done == promised
        old, new = here(before), here(after)
        assert set(done.new) == new.keys() - old.keys()
        assert set(done.removed) == old.keys() - new.keys()
        assert set(done.changed) == {i for i in new.keys() & old.keys() if new[i] != old[i]}
        assert there() == others | new
        again = sync(made)
        assert (again.new, again.changed, again.removed) == ([], [], [])
        assert set(again.unchanged) == new.keys()

    converges()
    assert listed(alone, "nightly") == strange


def test_what_was_changed_there_by_hand_is_put_right(alone: Side) -> None:
    sync(alone.runtime)
    (id,) = sync(alone.runtime).unchanged
    right = listed(alone, id)
    assert (right.destination, right.cron) == (
        alone.environ["BACKEND_URL"] + TRIGGER,
        "0 9 1,15 * *",
    )
    assert json.loads(right.body or "") == {"name": "test.keyed", "data": {}}
    wrongs: list[dict[str, Any]] = [{"body": {}}, {"cron": HOURLY}, {"retries": 0}]
    for wrong in wrongs:
        kept: dict[str, Any] = {"destination": right.destination, "cron": right.cron}
        kept |= {"body": {"name": "test.keyed", "data": {}}, "schedule_id": id}
        client(alone).schedule.create_json(**{**kept, **wrong})
        assert asdict(sync(alone.runtime)) == {
            "new": [],
            "changed": [id],
            "unchanged": [],
            "removed": [],
        }
        assert listed(alone, id).body == right.body


def test_the_commands(alone: Side) -> None:
    def run(*args: str, **changed: str) -> tuple[int, str, str]:
        environ = {k: v for k, v in {**alone.environ, **changed}.items() if v}
        done = build(load(environ)).test_cli_runner().invoke(args=["qstash", *args])
        current().db.dispose()
        return done.exit_code, done.stdout, done.stderr

    id = f"{ID_PREFIX}keyed"
    code, out, err = run("sync", "--dry-run", "--json")
    assert (code, json.loads(out)["new"], there(alone)) == (0, [id], {})
    assert "nothing was changed" in err
    code, out, _ = run("sync", "--json")
    nothing: dict[str, list[str]] = {"new": [], "changed": [], "unchanged": [], "removed": []}
    assert (code, json.loads(out)) == (0, {**nothing, "new": [id]})
    code, out, _ = run("sync", "--json")
    assert (code, json.loads(out)) == (0, {**nothing, "unchanged": [id]})
    code, out, _ = run("list", "--json")
    (listed,) = json.loads(out)
    assert (code, listed["id"], listed["cron"], listed["paused"]) == (0, id, "0 9 1,15 * *", False)
    assert run("list")[1].splitlines()[-1].startswith(id)
    code, out, err = run("sync", QSTASH_URL="http://127.0.0.1:1")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        "Error: qstash: Connection refused; `flask switchyard cutover verify` checks"
    )
    for lacking, says in (("QSTASH_URL", "QSTASH_TOKEN"), ("BACKEND_URL", "BACKEND_URL")):
        code, out, err = run("sync", **{lacking: ""})
        assert (code, out) == (2, "")
        assert err == f"Error: {says} is not set: schedules at QStash need it\n"


def test_as_in_the_guide(alone: Side) -> None:
    install(with_jobs(alone.runtime, {"process-payouts": "0 9 1,15 * *"}))
    assert schedule_payouts() == schedule_payouts() == f"{ID_PREFIX}process-payouts"
    assert there(alone) == {f"{ID_PREFIX}process-payouts": "0 9 1,15 * *"}
    install(alone.runtime)
    assert schedule_job("keyed") == f"{ID_PREFIX}keyed"


Beside = dict[str, str]


def call(
    on: Side, beside: Beside | None = None, *, body: bytes = TICK, token: str | None = None
) -> Any:
    """A trigger call with these of QStash's headers beside its signature."""
    url = on.environ["BACKEND_URL"] + TRIGGER
    signed = standin(on).sign(url, body) if token is None else token
    sent = {"Upstash-Signature": signed, "Content-Type": "application/json"}
    named = {f"Upstash-{name}": value for name, value in (beside or {}).items()}
    return requests.post(url, body, headers=sent | named, timeout=PATIENCE_SECONDS)


def runs(on: Side) -> list[Any]:
    return on.runtime.db.rows(select(RunRow.job, RunRow.key, RunRow.backend))


def occurrence(on: Side, at: datetime | None = None) -> datetime:
    return on.runtime.catalogue["keyed"].occurrence_at(at or on.runtime.store.clock())


def kept(on: Side, at: datetime, schedule_id: str = f"{ID_PREFIX}keyed") -> str:
    """A message that QStash's schedule made then, and still has; its id."""
    doc = {
        "url": "http://127.0.0.1:9/",
        "method": "POST",
        "header": {},
        "body64": "e30=",
        "maxRetries": 3,
        "retried": 0,
        "callerIP": "127.0.0.1",
        "scheduleId": schedule_id,
        "createdAt": int(at.timestamp() * 1000),
        "notBefore": int(at.timestamp() * 1000),
    }
    return standin(on).store.add(doc, at.timestamp() + 1e9)


def test_a_tick_is_the_same_run_as_every_clocks(alone: Side) -> None:
    at = occurrence(alone)
    spec: JobSpec = alone.runtime.catalogue["keyed"]
    first = tick(spec, at)
    message_id = kept(alone, at + timedelta(seconds=1))
    for retried in ("0", "2"):
        beside = {"Schedule-Id": f"{ID_PREFIX}keyed", "Message-Id": message_id, "Retried": retried}
        answer = call(alone, beside)
        assert answer.status_code == 202, answer.text
        assert (answer.json()["runId"], answer.json()["created"]) == (first.id, False)
    assert len(runs(alone)) == 1


def test_late_by_any_number_of_occurrences(alone: Side) -> None:
    """A tick made on the 1st of a month long gone and delivered only now is that day's."""
    for month, retried in ((3, "0"), (4, "3")):
        made_at = datetime(2026, month, 1, 9, 0, 0, 400_000, tzinfo=UTC)
        message_id = kept(alone, made_at)
        beside = {"Schedule-Id": f"{ID_PREFIX}keyed", "Message-Id": message_id, "Retried": retried}
        assert call(alone, beside).status_code == 202
    ticks = [("keyed", f"2026-{month}-01T09:00", "qstash") for month in ("03", "04")]
    assert sorted(runs(alone)) == ticks


def signed_at(on: Side, at: datetime) -> str:
    url = on.environ["BACKEND_URL"] + TRIGGER
    return standin(on).sign(url, TICK, iat=int(at.timestamp()))


def test_a_retried_tick_that_nobody_can_place_is_refused_for_now(alone: Side) -> None:
    beside = {"Schedule-Id": f"{ID_PREFIX}keyed", "Message-Id": "msg_gone", "Retried": "1"}
    answer = call(alone, beside)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json")
    # Nor does it take the word of a header for which schedule a message is of.
    message_id = kept(alone, occurrence(alone), schedule_id="scd_other")
    assert call(alone, beside | {"Message-Id": message_id}).status_code == 401
    assert runs(alone) == []


def test_while_qstash_cannot_be_asked_only_a_tick_in_time_counts(alone: Side) -> None:
    beside = {"Schedule-Id": f"{ID_PREFIX}keyed", "Message-Id": "msg_1", "Retried": "0"}
    at = occurrence(alone, alone.runtime.store.clock() - timedelta(hours=1))
    standin(alone).fault(refuse=1)
    late = signed_at(alone, at + timedelta(minutes=5))
    assert call(alone, beside, token=late).status_code == 503
    in_time = signed_at(alone, at + timedelta(seconds=5))
    assert call(alone, beside | {"Retried": "1"}, token=in_time).status_code == 503
    assert call(alone, beside, token=in_time).status_code == 202
    standin(alone).fault()
    # It answers again, and knows no such message: the first delivery's own time is all there is.
    assert call(alone, beside, token=late).json()["created"] is False
    assert runs(alone) == [("keyed", f"{at:%Y-%m-%dT%H:%M}", "qstash")]


def test_a_schedule_made_by_hand_in_time_with_ours_is_its_tick(alone: Side) -> None:
    at = occurrence(alone)
    message_id = kept(alone, at + timedelta(seconds=2), schedule_id="scd_guide")
    assert call(alone, {"Schedule-Id": "scd_guide", "Message-Id": message_id}).status_code == 202
    assert runs(alone) == [("keyed", f"{at:%Y-%m-%dT%H:%M}", "qstash")]


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("iat", [253_402_300_799, -62_135_596_800, 1])
def test_a_tick_of_a_time_that_no_clock_has_starts_nothing(
    alone: Side, iat: int, unknown: bool
) -> None:
    standin(alone).fault(refuse=int(not unknown))
    token = standin(alone).sign(alone.environ["BACKEND_URL"] + TRIGGER, TICK, iat=iat)
    beside = {"Schedule-Id": f"{ID_PREFIX}keyed", "Message-Id": "msg_1", "Retried": "0"}
    answer = call(alone, beside, token=token)
    assert (answer.status_code, runs(alone)) == (422, []), answer.text


@pytest.mark.parametrize("name", ["test.child", "test.keyed"])
def test_a_captured_call_is_the_same_run_whatever_is_sent_beside_its_signature(
    alone: Side, name: str
) -> None:
    """What QStash did not sign decides nothing: neither which run it is, nor whether it ticks."""
    data = {"name": uuid4().hex} if name == "test.child" else {}
    body = json.dumps({"name": name, "data": data}).encode()
    token = standin(alone).sign(alone.environ["BACKEND_URL"] + TRIGGER, body)
    schedule = {"Schedule-Id": f"{ID_PREFIX}keyed"}
    first = {"Message-Id": "msg_1", "Retried": "0"}
    if name == "test.keyed":
        first |= schedule
    known = call(alone, first, body=body, token=token)
    assert (known.status_code, known.json()["created"]) == (202, True)
    others: list[Beside] = [{}, {"Message-Id": "msg_2"}, {"Retried": "1"}, schedule, first]
    for beside in others:
        again = call(alone, beside, body=body, token=token)
        assert again.status_code == 202, again.text
        assert (again.json()["runId"], again.json()["created"]) == (known.json()["runId"], False)
    assert len(runs(alone)) == 1


def test_a_trigger_with_a_bad_signature_is_refused_even_on_this_machine(alone: Side) -> None:
    for token in ("", "x", standin(alone).sign("http://127.0.0.1:1" + TRIGGER, TICK)):
        answer = call(alone, token=token)
        assert (answer.status_code, answer.json()["title"]) == (401, "Unauthorized")
    assert call(alone, body=b"{").status_code == 400
    assert call(alone, body=b"[" * 5000).status_code == 422
    assert runs(alone) == []

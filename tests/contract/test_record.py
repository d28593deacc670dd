"""What every backend leaves on record of a run for people: its failed attempts."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import update

from app.switchyard.clock import utcnow
from app.switchyard.runs.models import RunRow, Status
from tests.support.sides import Side


def test_each_failed_attempt_at_a_step_is_on_record(on: Side) -> None:
    failing = {"name": uuid4().hex, "failAt": 3, "failures": 2}
    (row,) = on.finish(on.dispatch("five-steps", failing))
    failed = on.failures(row.id)
    assert [(one.step, one.attempt) for one in failed] == [("step 3", 1), ("step 3", 2)]
    for one in failed:
        assert (one.job, one.backend, one.error) == ("five-steps", on.backend, "RuntimeError")
        assert one.message == "step 3 failed on purpose"
        assert one.traceback.endswith("RuntimeError: step 3 failed on purpose\n")
        assert "in step" in one.traceback
        assert row.started_at <= one.began_at <= one.at <= row.ended_at
    steps = on.steps(row.id)
    assert all(row.started_at <= step.began_at <= step.updated_at for step in steps.values())
    assert steps["step 3"].began_at >= failed[1].at


def test_a_traceback_and_a_message_have_no_secret_and_an_end(on: Side) -> None:
    secret = f"s3cret-{uuid4().hex}"
    (row,) = on.finish(on.dispatch("talker", {"name": f"redis://ada:{secret}@example.org"}))
    (one,) = on.failures(row.id)
    assert secret not in one.message + one.traceback
    assert len(one.traceback.encode()) <= 8192
    assert "in deeper" in one.traceback
    assert one.traceback.count("\n") > 3


def test_a_lost_lease_is_a_failed_attempt(on: Side) -> None:
    run = on.dispatch("child", {"name": uuid4().hex}, delay=1)
    lost = {"status": Status.RUNNING, "check_at": utcnow() - timedelta(minutes=1)}
    with on.runtime.db.autocommit() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run.id).values(**lost, send_at=None))
    (row,) = on.finish(run)
    (one,) = on.failures(run.id)
    assert (row.status, one.error, one.step, one.attempt) == ("succeeded", "taken over", None, 1)
    assert (one.backend, one.traceback) == (on.backend, None)

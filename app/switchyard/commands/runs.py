"""`runs list|show|retry|cancel`: the ledger."""

from __future__ import annotations

from datetime import datetime

import click
from sqlalchemy import select

from app.switchyard.commands.cutover import by_option, reason_option, signed
from app.switchyard.commands.jobs import say_pending, watched
from app.switchyard.commands.output import (
    Commands,
    answered,
    details,
    listing,
    parts,
    record,
    say,
    table,
)
from app.switchyard.job import SERVERLESS
from app.switchyard.operations import acts
from app.switchyard.runs import reading
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from flags import LEGACY_BACKEND

group = Commands("runs", help="The ledger of runs.")


@group.command("list")
@click.option("--job", help="Only runs of this job.")
@click.option("--status", type=click.Choice([str(status) for status in Status]))
@click.option("--backend", type=click.Choice([LEGACY_BACKEND, *SERVERLESS]))
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
def list_runs(job: str | None, status: str | None, backend: str | None, limit: int) -> None:
    """The newest runs first."""
    runtime = parts()
    with runtime.db.autocommit() as connection:
        rows = reading.newest(connection, limit, job=job, status=status, backend=backend)
    if job is not None and not rows:
        # The ledger may know jobs that the code has forgotten: refused only where neither does.
        _ = runtime.catalogue[job]
    if not answered(rows):
        shown = ("id", "job", "status", "backend", "age", "error")
        now = runtime.store.clock()
        for row in rows:
            row["age"] = _age((now - datetime.fromisoformat(row["created_at"])).total_seconds())
        table(shown, ([row[name] for name in shown] for row in rows), one_line=True)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


@group.command("show")
@click.argument("run_id")
def show(run_id: str) -> None:
    """One run, with its payload, its result and its steps."""
    with parts().db.autocommit() as connection:
        run = reading.one(connection, run_id)
    if answered(run):
        return
    steps = run.pop("steps")
    details(run)
    if steps:
        listing(steps, list(steps[0]))


@group.command("retry")
@click.argument("run_id")
@reason_option
@by_option
def retry(run_id: str, why: str, by: str | None) -> None:
    """Let a failed or cancelled run go on from its done steps, with fresh tries."""
    runtime, failures = watched(parts())
    back = acts.retry(runtime, run_id, signed(by, why))
    _show_moved(run_id)
    if back:
        say(f"{back} runs that were cancelled with it came back too")
    say_pending(run_id, failures)


@group.command("cancel")
@click.argument("run_id")
@reason_option
@by_option
def cancel(run_id: str, why: str, by: str | None) -> None:
    """Call off an open run and all that is open below it; steps that are done stay done."""
    below = acts.cancel(parts(), run_id, signed(by, why))
    _show_moved(run_id)
    if below:
        say(f"{below} open runs below it were cancelled too")


def _show_moved(run_id: str) -> None:
    with parts().db.autocommit() as connection:
        row = connection.execute(select(*reading.COLUMNS).where(R.id == run_id)).one()
    record(reading.as_json(row._asdict()))

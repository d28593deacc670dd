"""`runs list|show|retry|cancel`: the ledger."""

from __future__ import annotations

import click
from sqlalchemy import select

from app.switchyard.commands.jobs import watched
from app.switchyard.commands.output import (
    Commands,
    details,
    document,
    json_option,
    parts,
    record,
    say,
    table,
)
from app.switchyard.job import SERVERLESS
from app.switchyard.runs import operate, reading
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from flags import LEGACY_BACKEND

group = Commands("runs", help="The ledger of runs.")


@group.command("list")
@click.option("--job", help="Only runs of this job.")
@click.option("--status", type=click.Choice([str(status) for status in Status]))
@click.option("--backend", type=click.Choice([LEGACY_BACKEND, *SERVERLESS]))
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
def list_runs(
    job: str | None, status: str | None, backend: str | None, limit: int, as_json: bool
) -> None:
    """The newest runs first."""
    made = parts()
    with made.db.autocommit() as connection:
        rows = reading.newest(connection, limit, job=job, status=status, backend=backend)
    if job is not None and not rows:
        # The ledger may know jobs that the code has forgotten: refused only where neither does.
        _ = made.catalogue[job]
    if as_json:
        document(rows)
        return
    shown = ("id", "job", "status", "backend", "created_at", "error")
    for row in rows:
        row["created_at"] = f"{row['created_at'][:19]}Z"
    table(shown, ([row[name] for name in shown] for row in rows), one_line=True)


@group.command("show")
@click.argument("run_id")
@json_option
def show(run_id: str, as_json: bool) -> None:
    """One run, with its payload, its result and its steps."""
    with parts().db.autocommit() as connection:
        run = reading.one(connection, run_id)
    if as_json:
        document(run)
        return
    steps = run.pop("steps")
    details(run.items())
    if steps:
        table(list(steps[0]), (step.values() for step in steps))


@group.command("retry")
@click.argument("run_id")
@json_option
def retry(run_id: str, as_json: bool) -> None:
    """Let a failed or cancelled run go on from its done steps, with fresh tries."""
    made, failures = watched(parts())
    back = operate.retry(made.store, run_id)
    _print_moved(run_id, as_json)
    if back:
        say(f"{back} runs that were cancelled with it came back too")
    for failure in failures:
        say(f"run {run_id} stays pending: {failure}; the relay tells its backend again")


@group.command("cancel")
@click.argument("run_id")
@json_option
def cancel(run_id: str, as_json: bool) -> None:
    """Call off an open run and all that is open below it; steps that are done stay done."""
    below = operate.cancel(parts().store, run_id)
    _print_moved(run_id, as_json)
    if below:
        say(f"{below} open runs below it were cancelled too")


def _print_moved(run_id: str, as_json: bool) -> None:
    with parts().db.autocommit() as connection:
        run = reading.as_json(
            connection.execute(select(*reading.COLUMNS).where(R.id == run_id)).one()._asdict()
        )
    record(run, as_json)

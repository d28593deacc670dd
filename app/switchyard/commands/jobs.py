"""`jobs list|show|dispatch|run`: the catalogue, a new run of a job, and one that is performed here
and now, without any queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from time import monotonic
from typing import Any

import click
from flask import current_app
from rich.progress import TimeElapsedColumn
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.switchyard import effects
from app.switchyard.clock import iso
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    DidNotHold,
    answered,
    database_line,
    details,
    listing,
    parts,
    printable,
    progress,
    record,
    say,
    table,
)
from app.switchyard.commands.signals import stop_on_signals
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, SwitchyardError
from app.switchyard.job import JobSpec
from app.switchyard.operations import jobs
from app.switchyard.operations.acts import parse_payload
from app.switchyard.operations.story import story
from app.switchyard.runs import children
from app.switchyard.runs.backend import End
from app.switchyard.runs.memory import Inline
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import Run
from app.switchyard.runtime import Runtime, using
from app.switchyard.text import error_of

group = Commands("jobs", help="Show the catalogue of jobs, and start runs.")


@group.command("list")
def list_jobs() -> None:
    """List every job, and where a new run of it would go now."""
    runtime = parts()
    specs, at = runtime.catalogue.values(), _stages(runtime)
    rows = [jobs.described(spec, *at.get(spec.name, ())) for spec in specs]
    listing(rows, ("name", "schedule", "queue", "stage", "percent", "backend"))


@group.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show a job: its payload, retries and next scheduled time."""
    runtime = parts()
    spec = runtime.catalogue[name]
    record(jobs.detailed(runtime, spec, *_stages(runtime).get(spec.name, ())))


def _stages(runtime: Runtime) -> dict[str, tuple[str, float | None]]:
    """Each job's stage and percent, or "unknown" without a database, which only the stages need."""
    try:
        return {row.job: (row.stage, row.percent) for row in stages.current_stages(runtime.db)}
    except DBAPIError as failure:
        say(f"the stages are unknown: {database_line(failure)}")
        return dict.fromkeys(runtime.catalogue, ("unknown", None))


@group.command("dispatch")
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD_JSON]", required=False)
@click.option("--key", help="Makes the run unique: the same key is the same run.")
@click.option("--delay", type=float, metavar="SECONDS", help="Start it this much later.")
@click.option("--at", "at", metavar="TIME", help="Start it then: 2031-05-04T09:00:00Z.")
def dispatch_job(
    name: str, payload: str | None, key: str | None, delay: float | None, at: str | None
) -> None:
    """Record a new run of job NAME and send it to its backend."""
    runtime = parts()
    spec = runtime.catalogue[name]
    when = None if at is None else _time(at)
    watching, failures = watched(runtime)
    with using(watching):
        run = dispatch(spec.name, parse_payload(payload), key=key, delay=delay, at=when)
    if not answered(asdict(run) | {"sent": run.created and not failures}):
        details(asdict(run))
    if not run.created:
        say(f"key {run.key!r} was known: run {run.id} is unchanged, {run.status}")
    say_pending(run.id, failures)


def watched(runtime: Runtime) -> tuple[Runtime, list[str]]:
    """The same parts, and a list that collects why a backend could not be sent a run."""
    failures: list[str] = []
    store = replace(runtime.store, not_sent=failures.append)
    return replace(runtime, store=store), failures


def say_pending(run_id: str, failures: list[str]) -> None:
    """Print why a run could not be sent."""
    for failure in failures:
        say(f"run {run_id} stays pending: {failure}; the relay resends it")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--at: {text!r} is not a time like 2031-05-04T09:00:00Z") from None


_COUNT_EVERY_SECONDS = 0.2


@group.command("run")
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD_JSON]", required=False)
@click.option("--key", help="Makes the run unique: an open run with this key is continued.")
@click.option("--plan", "plan_only", is_flag=True, help="Print what it would do, and do nothing.")
def run_job(name: str, payload: str | None, key: str | None, plan_only: bool) -> None:
    """Perform job NAME here and now, in this process.

    So are its retries, sleeps and children. The run is recorded like any other: if the process is
    stopped half way, a worker continues after the steps that are done. With --plan there is no run,
    and nothing is written.
    """
    runtime = parts()
    spec = runtime.catalogue[name]
    if plan_only:
        if key is not None:
            raise BadInput("give --plan or --key, not both: a plan creates no run")
        _show_plan(_planned(runtime, spec, parse_payload(payload)))
        return
    with stop_on_signals() as stop:
        inline = Inline(runtime.engine, stop, current_app.app_context)
        with using(replace(runtime, store=inline.store, engine=inline.engine)):
            run = dispatch(spec.name, parse_payload(payload), key=key)
        if not run.created:
            say(f"key {run.key!r} was known: run {run.id} is {run.status}; following it")
        _follow(inline, run)
    ended = story(runtime.db, run.id) | {"created": run.created}
    if not answered(ended):
        details({each: ended[each] for each in ("id", "job", "status", "result", "error")})
    if ended["status"] in OPEN:
        say(f"stopped: run {run.id} stays open, and the relay sends it to {run.backend}")
    if ended["status"] != Status.SUCCEEDED:
        raise click.exceptions.Exit(DID_NOT_HOLD)


def _planned(runtime: Runtime, spec: JobSpec, payload: dict[str, Any] | None) -> dict[str, Any]:
    if spec.plan is None:
        raise BadInput(f"job {spec.name!r} has no plan: it cannot say what it would do")
    asked = spec.parse(payload)
    with Session(runtime.db.engine) as tx, effects.held():  # without a commit it is rolled back
        try:
            return spec.plan(tx, asked, runtime.store.clock())
        except (SwitchyardError, DBAPIError):
            raise
        except Exception as failure:
            raise DidNotHold(f"the plan failed: {error_of(failure)}") from failure


def _show_plan(plan: Mapping[str, Any]) -> None:
    """Print a plan's figures, then each of its lists as a table."""
    if answered(plan):
        return
    lists = {name: value for name, value in plan.items() if isinstance(value, list)}
    details({**plan, **{name: len(rows) for name, rows in lists.items()}})
    for name, rows in lists.items():
        if rows:
            click.echo(f"\n{name}")
            headings = list(dict.fromkeys(heading for row in rows for heading in row))
            table(headings, ([row.get(heading) for heading in headings] for row in rows))


def _follow(inline: Inline, run: Run) -> None:
    """Perform the run slice by slice, report what each leaves open, and move the bar."""
    with progress(run.job, TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        note = say if bar.disable else lambda text: bar.console.print(printable(text))
        counted, waits = 0.0, False
        for run_id, outcome in inline.slices(run.id):
            if outcome is None and not waits and (wait := _wait(inline, run)):
                note(f"{run.id}: {wait}")
            elif outcome is not None and outcome.end is End.RETRY:
                note(f"{run_id}: {outcome.error}; tried again at {iso(outcome.due_at)}")
            waits = outcome is None
            if not bar.disable and monotonic() >= counted + _COUNT_EVERY_SECONDS:
                counted = monotonic()
                bar.update(task, **_progress(inline, run))


def _wait(inline: Inline, run: Run) -> str | None:
    [row] = inline.store.db.rows(select(R.status, R.due_at).where(R.id == run.id))
    if row.status == Status.RUNNING:
        return "another process is performing it; waiting for it to end"
    return f"waiting, until {iso(row.due_at)} at the latest" if row.status in OPEN else None


def _progress(inline: Inline, run: Run) -> dict[str, Any]:
    with inline.store.db.autocommit() as connection:
        counts = children.by_status(connection, run.id)
    total, left = sum(counts.values()), sum(counts.get(status, 0) for status in OPEN)
    return {"total": total, "completed": total - left, "visible": total > 0}

"""`jobs list|show|dispatch`: the catalogue, and a new run of one of its jobs."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime

import click
from sqlalchemy.exc import DBAPIError

from app.switchyard.commands import later
from app.switchyard.commands.output import (
    Commands,
    answered,
    database_line,
    details,
    listing,
    parts,
    record,
    say,
)
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.operations import jobs
from app.switchyard.operations.acts import parse_payload
from app.switchyard.runtime import Runtime, using
from flags import StageRow

group = Commands("jobs", help="The catalogue of jobs, and new runs of them.")
later.add(group, str(__package__), {"run": "run_here:run_job"})


@group.command("list")
def list_jobs() -> None:
    """Every job, and where a new run of it would go now."""
    runtime = parts()
    stage_of = _stages(runtime)
    rows = [jobs.described(spec, stage_of.get(spec.name)) for spec in runtime.catalogue.values()]
    listing(rows, ("name", "schedule", "queue", "stage", "percent", "backend"))


@group.command("show")
@click.argument("name")
def show(name: str) -> None:
    """One job: its payload, its retries and its next scheduled time."""
    runtime = parts()
    record(jobs.detailed(runtime.catalogue[name], _stages(runtime).get(name), runtime))


def _stages(runtime: Runtime) -> dict[str, StageRow]:
    """The stages by job; "unknown" where the database cannot say: the catalogue is the code's."""
    try:
        return {row.job: row for row in stages.current_stages(runtime.db)}
    except DBAPIError as failure:
        say(f"no stage is known: {database_line(failure)}")
        return {name: StageRow(name, "unknown", None, 0) for name in runtime.catalogue}


@group.command("dispatch")
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD_JSON]", required=False)
@click.option("--key", help="What makes it unique: the same key is the same run.")
@click.option("--delay", type=float, metavar="SECONDS", help="Not before so many seconds.")
@click.option("--at", "at", metavar="ISO", help="Not before this time, with its zone.")
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
        say(f"key {run.key!r} was known: run {run.id} stands as it was, {run.status}")
    say_pending(run.id, failures)


def watched(runtime: Runtime) -> tuple[Runtime, list[str]]:
    """The same parts, and the list that fills with why a backend could not be sent a run."""
    failures: list[str] = []
    backends = runtime.store.backends.noting(failures.append)
    return replace(runtime, store=replace(runtime.store, backends=backends)), failures


def say_pending(run_id: str, failures: list[str]) -> None:
    """Say why a run could not be sent."""
    for failure in failures:
        say(f"run {run_id} stays pending: {failure}; the relay resends it")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--at: {text!r} is no time like 2031-05-04T09:00:00Z") from None

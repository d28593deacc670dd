"""`jobs list|show|dispatch`: the catalogue, and a new run of one of its jobs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import click

import flags
from app.switchyard.clock import iso
from app.switchyard.commands.output import (
    Commands,
    details,
    document,
    json_option,
    listing,
    parts,
    record,
    say,
    table,
)
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.job import JobSpec
from app.switchyard.runs.create import Run
from app.switchyard.runtime import Runtime, using
from flags import LEGACY_BACKEND, Stage, StageRow

group = Commands("jobs", help="The catalogue of jobs, and new runs of them.")


@group.command("list")
@json_option
def list_jobs(as_json: bool) -> None:
    """Every job, and where a new run of it would go now."""
    made = parts()
    at = {row.job: row for row in stages.current_stages(made.db)}
    rows = [described(spec, at.get(spec.name)) for spec in made.catalogue.values()]
    listing(rows, ("name", "schedule", "queue", "stage", "percent", "backend"), as_json)


@group.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One job: its payload, its retries and its next scheduled time."""
    made = parts()
    spec = made.catalogue[name]
    at = {row.job: row for row in stages.current_stages(made.db)}
    shown = {
        **described(spec, at.get(name)),
        "gaps": list(spec.gaps),
        "timeout": spec.timeout,
        "next": iso(spec.occurrence_after(made.store.clock()) if spec.schedule else None),
        "payload": spec.payload.model_json_schema(by_alias=True),
    }
    record(shown, as_json)


@group.command("dispatch")
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD_JSON]", required=False)
@click.option("--key", help="What makes it unique: the same key is the same run.")
@click.option("--delay", type=float, metavar="SECONDS", help="Not before so many seconds.")
@click.option("--at", "at", metavar="ISO", help="Not before this time, with its zone.")
@json_option
def dispatch_job(
    name: str,
    payload: str | None,
    key: str | None,
    delay: float | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Record a new run of job NAME and tell its backend."""
    made = parts()
    spec = made.catalogue[name]
    when = None if at is None else _time(at)
    eyes, failures = watched(made)
    with using(eyes):
        run = dispatch(spec.name, parse_payload(payload), key=key, delay=delay, at=when)
    if as_json:
        document(asdict(run) | {"told": run.created and not failures})
    else:
        details(asdict(run).items())
    say_outcome(run, failures)


def watched(made: Runtime) -> tuple[Runtime, list[str]]:
    """The same parts, and the list that fills with why a backend could not be sent a run."""
    failures: list[str] = []
    backends = made.store.backends.noting(failures.append)
    return replace(made, store=replace(made.store, backends=backends)), failures


def say_outcome(run: Run, failures: list[str]) -> None:
    """Say what the answer alone does not: known before, or not told yet."""
    if not run.created:
        say(f"key {run.key!r} was known: run {run.id} stands as it was, {run.status}")
    for failure in failures:
        say(f"run {run.id} stays pending: {failure}; the relay tells {run.backend} again")


def show_plan(found: dict[str, Any], as_json: bool) -> None:
    """Print what a job would do: its figures, then each of its lists as a table."""
    if as_json:
        document(found)
        return
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    details((name, len(lists[name]) if name in lists else found[name]) for name in found)
    for name, rows in lists.items():
        if rows:
            click.echo(f"\n{name}")
            headings = list(dict.fromkeys(heading for row in rows for heading in row))
            table(headings, ([row.get(heading) for heading in headings] for row in rows))


def described(spec: JobSpec, at: StageRow | None) -> dict[str, Any]:
    """A job as `jobs list --json` gives it."""
    stage = Stage.LEGACY.value if at is None else at.stage
    percent = None if at is None else at.percent
    names = ("name", "event", "schedule", "queue", "attempts", "concurrency", "serverless")
    return {
        **{name: getattr(spec, name) for name in names},
        "stage": stage,
        "percent": percent,
        "backend": _backend(spec, stage, percent),
        "file": spec.file,
    }


def _backend(spec: JobSpec, stage: str, percent: float | None) -> str:
    """Where a new run goes now; legacy for a job in the middle of a ramp, where each key has its
    own answer: the serverless side is named once it has them all."""
    if stage == Stage.RAMP and percent != 100:
        return LEGACY_BACKEND
    return flags.decide(spec.name, spec.name).backend


def parse_payload(text: str | None) -> dict[str, Any] | None:
    """The payload argument as the mapping it must be. Raises BadInput."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise BadInput(f"the payload is not JSON: {failure}") from None
    if not isinstance(value, dict):
        raise BadInput('the payload must be a JSON object, like \'{"to": "…"}\'')
    return value


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--at: {text!r} is no time like 2031-05-04T09:00:00Z") from None

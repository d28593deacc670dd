"""`jobs run`: a job done here and now, with no queue at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.switchyard import effects
from app.switchyard.clock import iso
from app.switchyard.commands.jobs import parse_payload, show_plan
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    console,
    details,
    document,
    json_option,
    parts,
    printable,
    say,
)
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput
from app.switchyard.job import JobSpec
from app.switchyard.runs import children
from app.switchyard.runs.backend import End
from app.switchyard.runs.create import Run
from app.switchyard.runs.memory import Inline, Slice
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime, using

_COUNT_EVERY_SECONDS = 0.2


@click.command("run")
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD_JSON]", required=False)
@click.option("--key", help="What makes it unique: a run of this key is gone on with.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what it would do, and do nothing.")
@json_option
@with_appcontext
def run_job(
    name: str, payload: str | None, key: str | None, plan_only: bool, as_json: bool
) -> None:
    """Do job NAME in this process, with its retries, its sleeps and its children.

    The run is recorded like any other. If the process is stopped half way, the relay has a worker
    go on from the steps that are done. With --plan there is no run, and nothing is written.
    """
    made = parts()
    spec = made.catalogue[name]
    if plan_only:
        if key is not None:
            raise BadInput("give --plan or --key, not both: a plan makes no run")
        show_plan(_planned(made, spec, parse_payload(payload)), as_json)
        return
    with stop_on_signals() as stop:
        inline = Inline(made.engine, stop, current_app.app_context)
        here = replace(made, store=inline.store, engine=inline.engine)
        with using(here):
            run = dispatch(spec.name, parse_payload(payload), key=key)
        if not run.created:
            say(f"key {run.key!r} was known: run {run.id} is {run.status}; following it")
        with _shown(inline, run) as show:
            for done in inline.slices(run.id):
                show(done)
    ended = _ended(inline, run)
    if as_json:
        document(ended)
    else:
        details((name, ended[name]) for name in ("id", "job", "status", "result", "error"))
    if ended["status"] in OPEN:
        say(f"stopped: run {run.id} stays open, and the relay tells {run.backend} of it")
    if ended["status"] != Status.SUCCEEDED:
        raise click.exceptions.Exit(DID_NOT_HOLD)


def _planned(made: Runtime, spec: JobSpec, payload: dict[str, Any] | None) -> dict[str, Any]:
    if spec.plan is None:
        raise BadInput(f"job {spec.name!r} cannot say beforehand what it would do")
    asked = spec.parse(payload)
    with Session(made.db.engine) as tx, effects.held():  # no commit: it ends by being rolled back
        return spec.plan(tx, asked, made.store.clock())


def _ended(inline: Inline, run: Run) -> dict[str, Any]:
    with inline.store.db.autocommit() as connection:
        row = connection.execute(select(R.status, R.result, R.error).where(R.id == run.id)).one()
        below = children.by_status(connection, run.id)
    return {
        **asdict(run),
        "status": row.status,
        "result": None if row.result is None else json.loads(row.result),
        "error": row.error,
        "children": below,
    }


class _Show:
    """Says what a slice leaves open, and moves the bar; counting is spared where nobody looks."""

    def __init__(self, inline: Inline, run: Run, bar: Progress) -> None:
        self._inline = inline
        self._run = run
        self._bar = bar
        self._task = bar.add_task(run.job, total=None, visible=False)
        self._counted = 0.0
        self._waits = False

    def __call__(self, done: Slice) -> None:
        """Show one slice."""
        outcome = done.outcome
        if outcome is None and not self._waits:
            self._waits = True
            self._say_wait()
        if outcome is not None:
            self._waits = False
            if outcome.end is End.RETRY:
                self._say(f"{done.run_id}: {outcome.error}; tried again at {iso(outcome.due_at)}")
        if not self._bar.disable and monotonic() >= self._counted + _COUNT_EVERY_SECONDS:
            self._counted = monotonic()
            self._count()

    def _say_wait(self) -> None:
        with self._inline.store.db.autocommit() as connection:
            columns = (R.status, R.due_at)
            row = connection.execute(select(*columns).where(R.id == self._run.id)).one()
        if row.status == Status.RUNNING:
            self._say(f"{self._run.id}: another process is doing it; waiting for its end")
        elif row.status in OPEN:
            self._say(f"{self._run.id}: waiting, until {iso(row.due_at)} at the latest")

    def _say(self, text: str) -> None:
        if self._bar.disable:
            say(text)
        else:
            self._bar.console.print(printable(text))

    def _count(self) -> None:
        with self._inline.store.db.autocommit() as connection:
            counts = children.by_status(connection, self._run.id)
        total = sum(counts.values())
        left = sum(counts.get(status, 0) for status in OPEN)
        self._bar.update(self._task, total=total, completed=total - left, visible=total > 0)


@contextmanager
def _shown(inline: Inline, run: Run) -> Iterator[_Show]:
    stderr = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        yield _Show(inline, run, bar)

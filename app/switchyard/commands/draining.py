"""`cutover drain` and `cutover rollback`: bring what is open to one side, and say what is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.switchyard.commands.cutover import by_option, named
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    console,
    document,
    json_option,
    parts,
    say,
    table,
)
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.cutover import drain as drains
from app.switchyard.errors import BadInput
from app.switchyard.runtime import Runtime
from flags import Side

ROLLBACK_SECONDS = 60.0
F = TypeVar("F", bound=Callable[..., Any])

every_option = click.option("--all", "every", is_flag=True, help="Every job, unknown ones too.")


def wait_option(default: float) -> Callable[[F], F]:
    """`--wait` with this default."""
    return click.option(
        "--wait",
        "wait_seconds",
        type=click.FloatRange(0, 86_400),
        default=default,
        show_default=True,
        help="Seconds to look again while something is left.",
    )


@click.command("drain")
@click.argument("job", required=False)
@every_option
@click.option("--to", "to", type=click.Choice([str(side) for side in Side]), required=True)
@click.option("--running", is_flag=True, help="What is running too, at its next step boundary.")
@wait_option(0.0)
@json_option
def drain(
    job: str | None, every: bool, to: str, running: bool, wait_seconds: float, as_json: bool
) -> None:
    """Move what is open of JOB and below it to the other side; exit 1 while something is left.

    Pending, delayed and sleeping runs move at once and keep their due times. May be interrupted
    and repeated.
    """
    made = parts()
    jobs = _jobs(made, job, every)
    with stop_on_signals() as stop, _bar() as progress:
        work = drains.Drain(
            made, None if every else jobs, Side(to), running, wait_seconds, stop, progress
        )
        specs = [made.catalogue[name] for name in work.misplaced() if name in made.catalogue]
        for backend in {drains.backend_on(Side(to), spec) for spec in specs}:
            made.store.backends[backend].ping()  # where nobody answers, nothing is to be brought
        drained = work()
    _report(made, drained, Side(to), stop, as_json)


@click.command("rollback")
@click.argument("job", required=False)
@every_option
@click.option("--why", required=True, help="For the history.")
@by_option
@wait_option(ROLLBACK_SECONDS)
@json_option
def rollback(
    job: str | None,
    every: bool,
    why: str,
    by: str | None,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Flip JOB to legacy and bring all that is open of it back to RQ, running or not.

    Exit 1 if something is left on the serverless side after --wait; repeat it then.
    """
    made = parts()
    jobs = _jobs(made, job, every)
    who = named(by)
    if not why.strip():
        raise BadInput("say why: the history is read at 2 a.m.")
    with stop_on_signals() as stop, _bar() as progress:
        work = drains.Drain(
            made, None if every else jobs, Side.RQ, True, wait_seconds, stop, progress
        )
        drained = drains.rollback(jobs, work, by=who, why=why)
    _report(made, drained, Side.RQ, stop, as_json)


def _jobs(made: Runtime, job: str | None, every: bool) -> list[str]:
    if every == (job is not None):
        raise BadInput("give a job or --all")
    return list(made.catalogue) if job is None else [made.catalogue[job].name]


def _report(
    made: Runtime, drained: drains.Drained, to: Side, stop: threading.Event, as_json: bool
) -> None:
    rows = [
        {
            "name": name,
            "moved": drained.moved[name],
            "asked": drained.asked[name],
            "left": drained.left[name],
            "known": name in made.catalogue,
        }
        for name in sorted({*drained.moved, *drained.asked, *drained.left})
    ]
    left = drained.left.total()
    if as_json:
        totals = {"moved": drained.moved.total(), "asked": drained.asked.total(), "left": left}
        document({"to": str(to), **totals, "interrupted": stop.is_set(), "jobs": rows})
    else:
        headings = ("job", "moved", "asked", "left")
        table(headings, ([row[name] for name in ("name", *headings[1:])] for row in rows))
    if unknown := {n: c for n, c in drained.left.items() if n not in made.catalogue}:
        runs = sum(unknown.values())
        names = ", ".join(sorted(unknown))
        say(f"{runs} runs of jobs that this code does not know were left: {names}")
    if stop.is_set():
        say(f"interrupted with {left} left; run it again to go on")
    elif left:
        say(f"{left} left; run it again, or give it longer with --wait")
    if left or stop.is_set():
        raise click.exceptions.Exit(DID_NOT_HOLD)


@contextmanager
def _bar() -> Iterator[Any]:
    stderr = console(stderr=True)
    columns = (TextColumn("draining"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)

"""`cutover drain` and `cutover rollback`: bring what is open to one side, and say what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from app.switchyard.commands.cutover import (
    SIDES,
    by_option,
    group,
    reason_option,
    signed,
    why_option,
)
from app.switchyard.commands.output import DID_NOT_HOLD, answered, listing, parts, progress, say
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.cutover import drain as drains
from app.switchyard.errors import BadInput
from app.switchyard.operations import acts
from flags import Side

ROLLBACK_SECONDS = 60.0

every_option = click.option("--all", "every", is_flag=True, help="Every job, unknown ones too.")
wait_option = partial(
    click.option,
    *("--wait", "wait_seconds"),
    type=click.FloatRange(0, 86_400),
    show_default=True,
    help="Seconds to look again while something is left.",
)


@group.command("drain")
@click.argument("job", required=False)
@every_option
@click.option("--to", type=SIDES, required=True)
@click.option("--running", is_flag=True, help="What is running too, at its next step boundary.")
@reason_option
@by_option
@wait_option(default=0.0)
def drain(to: str, running: bool, why: str, by: str | None, **which: Any) -> None:
    """Move what is open of JOB and below it to the other side; exit 1 while something is left.

    Pending, delayed and sleeping runs move at once and keep their due times. May be interrupted
    and repeated.
    """
    who = signed(by, why)
    with _drain(Side(to), running, **which) as work:
        moving = acts.drain(work, who)
    _report(work, moving.drained)


@group.command("rollback")
@click.argument("job", required=False)
@every_option
@why_option
@by_option
@wait_option(default=ROLLBACK_SECONDS)
def rollback(why: str, by: str | None, **which: Any) -> None:
    """Flip JOB to legacy and bring all that is open of it back to RQ, running or not.

    Exit 1 if something is left on the serverless side after --wait; repeat it then.
    """
    who = signed(by, why).with_reason()
    with _drain(Side.RQ, True, **which) as work:
        moving = acts.rollback(work, who)
    _report(work, moving.drained)


@contextmanager
def _drain(
    to: Side, running: bool, job: str | None, every: bool, wait_seconds: float
) -> Iterator[drains.Drain]:
    """What is to be drained, with a bar on a terminal; a signal ends it after the chunk in hand."""
    if every == (job is not None):
        raise BadInput("give a job or --all")
    runtime = parts()
    job = None if job is None else runtime.catalogue[job].name
    with stop_on_signals() as stop, progress("draining") as bar:
        task = bar.add_task("", total=None)
        yield drains.Drain(
            *(runtime, job, to, running, wait_seconds, stop),
            lambda done, of: bar.update(task, completed=done, total=of),
        )


def _report(work: drains.Drain, drained: drains.Drained) -> None:
    catalogue = work.runtime.catalogue
    rows = [
        {"name": name, **counts, "known": name in catalogue}
        for name, counts in drained.by_job().items()
    ]
    left, interrupted = drained.left.total(), work.stop.is_set()
    shown = {"to": str(work.to), **drained.totals(), "interrupted": interrupted, "jobs": rows}
    if not answered(shown):
        if rows:
            listing(rows, ("name", "moved", "asked", "left"))
        else:
            say("nothing to move: no open run is on the other side")
    unknown = {name: count for name, count in drained.left.items() if name not in catalogue}
    if unknown:
        names = ", ".join(sorted(unknown))
        say(f"{sum(unknown.values())} runs of jobs that this code does not know were left: {names}")
    if interrupted:
        say(f"interrupted with {left} left; run it again to go on")
    elif left:
        say(f"{left} left; run it again, or give it longer with --wait")
    if left or interrupted:
        raise click.exceptions.Exit(DID_NOT_HOLD)

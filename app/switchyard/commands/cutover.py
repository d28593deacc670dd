"""`cutover status|stage|history|pin|unpin|pins|parity|drain|rollback`: the migration."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import click

from app.switchyard import audit
from app.switchyard.audit import By
from app.switchyard.commands import later
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    DidNotHold,
    answered,
    listing,
    options,
    parts,
    progress,
    say,
    table,
)
from app.switchyard.commands.signals import stop_on_signals
from app.switchyard.cutover import drain as drains
from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.shadow import Kind
from app.switchyard.cutover.status import BACKENDS, cutover_status, unreachable
from app.switchyard.errors import BadInput, GateClosed, StageRefused
from app.switchyard.operations import acts
from app.switchyard.runtime import Runtime
from app.switchyard.text import whole_number
from app.switchyard.words import plural
from flags import Side, Stage

SIDES = click.Choice([str(side) for side in Side])
KINDS = click.Choice([str(kind) for kind in Kind])

limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="The most rows to list.",
)
group = Commands("cutover", help="Show and move the stages of jobs.")
later.add(
    group,
    str(__package__),
    {
        "inventory": "adoption:inventory",
        "verify": "checks:verify",
    },
)
_WORTH_A_LOOK = [kind for kind in Kind if kind not in (Kind.EQUAL, Kind.PLANNED)]


def signed(*, required: bool = False) -> Callable[[Any], Any]:
    """The options --why and --by of an act, which its command gets as `who`. Raises BadInput."""

    def declare(command: Callable[..., None]) -> Any:
        @wraps(command)
        def run(*, why: str | None, by: str | None, **given: Any) -> None:
            command(who=By.person(_user() if by is None else by, why or ""), **given)

        return options(
            click.option("--why", required=required, help="The reason, for the history."),
            click.option("--by", help="Who does it. The default is the system's user."),
        )(run)

    return declare


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user often has a number but no name.
        return f"uid {os.getuid()}"


@group.command("status")
def status() -> None:
    """Show each job's stage, and its open, overdue and failed runs."""
    shown = cutover_status(parts())
    shown["unreachable"] = unreachable(parts(), shown)
    _show(shown)
    for backend, why in shown["unreachable"].items():
        say(f"{backend} holds open runs and does not answer: {why}")


@group.command("stage")
@click.argument("words", metavar="JOB|--all STAGE", nargs=-1, required=True)
@click.option("--all", "every", is_flag=True, help="Move every job of the catalogue.")
@click.option("--percent", type=float, help="For ramp: how many keys in a hundred.")
@signed(required=True)
@click.option(
    "--force",
    is_flag=True,
    help="Complete the job even if its gate is closed. The history records that it was forced.",
)
def stage(words: tuple[str, ...], every: bool, percent: float | None, force: bool, who: By) -> None:
    """Move JOB, or every job, to another stage.

    STAGE is legacy, shadow, ramp (with --percent), live or complete.
    """
    runtime = parts()
    if len(words) != (1 if every else 2):
        raise BadInput("give a job and a stage, or --all and a stage")
    to = words[-1]
    if force and to != Stage.COMPLETE:
        raise BadInput("--force is for complete: nothing else has a gate")
    stages.check(to, percent, who)
    names = list(runtime.catalogue) if every else [runtime.catalogue[words[0]].name]
    if every:  # without those that are there already, which would be refused
        at = {row.job: (row.stage, row.percent) for row in stages.current_stages(runtime.db)}
        names = [name for name in names if at.get(name) != (to, percent)]
    refused = []
    for name in names:
        try:
            acts.stage(runtime, name, to, percent, who, force=force)
        except (StageRefused, GateClosed) as refusal:
            hint = "; --force completes it all the same" if isinstance(refusal, GateClosed) else ""
            if not every:
                raise type(refusal)(f"{refusal}{hint}") from None
            refused.append(f"{refusal}{hint}")
    _show(cutover_status(runtime, None if every else names))
    if not names:
        say(f"every job is already at {to}, so nothing was changed")
    for name in names if to == Stage.SHADOW else ():
        _say_plan(runtime, name)
    if to != Stage.LEGACY and not runtime.settings.use_inngest:
        say("USE_INNGEST is not true: new runs still go to rq, and none gets a shadow")
    if refused:
        raise DidNotHold(
            f"{len(refused)} of {plural(len(names), 'job')} not moved: {'; '.join(refused)}"
        )


@group.command("history")
@click.argument("job", required=False)
@limit_option
def history(job: str | None, limit: int) -> None:
    """Show who moved which job when and why, newest first."""
    runtime = parts()
    rows = audit.history(runtime.db, job=job, act="stage", limit=limit)
    if job is not None and not rows:
        _ = runtime.catalogue[job]
    listing(rows, ("at", "job", "from", "to", "percent", "by", "why"))


def _show(shown: dict[str, Any]) -> None:
    if answered(shown):
        return
    say(f"USE_INNGEST is {str(shown['use_inngest']).lower()}")
    sides = "/".join(BACKENDS)
    say(f"open and failed (in 24 hours) by side: {sides}")
    table(
        ("job", "stage", "%", "open", "overdue", "failed", "differ"),
        (
            (
                *(job["name"], job["stage"], job["percent"]),
                _by_side(job["open"]),
                sum(job["overdue"].values()),
                _by_side(job["failed_24h"]),
                _differences(job["parity"]),
            )
            for job in shown["jobs"]
        ),
    )


def _by_side(counts: dict[str, int]) -> str:
    return "/".join(str(counts[backend]) for backend in BACKENDS) if any(counts.values()) else "-"


def _differences(parity: dict[str, Any]) -> str:
    return f"{parity['different']} of {parity['compared']}" if parity["plan"] else "no plan"


def _say_plan(runtime: Runtime, name: str) -> None:
    if runtime.catalogue[name].plan is None:
        say(f"{name} has no plan, so nothing is compared")


@group.command("pin")
@click.argument("job")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option(
    "--to", "side", type=SIDES, required=True, help="The side for new runs with these keys."
)
@signed(required=True)
def pin(job: str, keys: tuple[str, ...], side: str, who: By) -> None:
    """Pin keys of JOB to one side.

    A pin to rq holds until the job is complete; one to serverless counts in a ramp or live. KEY is
    what a ramp goes by: the payload field that the job declares for it, or else the run's own key.
    """
    _pin(job, keys, side, who)


@group.command("unpin")
@click.argument("job")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@signed(required=True)
def unpin(job: str, keys: tuple[str, ...], who: By) -> None:
    """Remove the pins of keys of JOB, which then follow its stage."""
    _pin(job, keys, None, who)


def _pin(job: str, keys: tuple[str, ...], side: str | None, who: By) -> None:
    runtime = parts()
    name, now = runtime.catalogue[job].name, runtime.store.clock()
    changed = stages.pin(runtime.db, name, keys, side, who, now)
    _show_pins(runtime, name)
    if not changed:
        say("that was so already: nothing was changed")


@group.command("pins")
@click.argument("job", required=False)
def pins(job: str | None) -> None:
    """Show who pinned which keys of JOB, or of any job, and why."""
    runtime = parts()
    _show_pins(runtime, None if job is None else runtime.catalogue[job].name)


def _show_pins(runtime: Runtime, job: str | None) -> None:
    listing(stages.pinned_keys(runtime.db, job), ("key", "job", "side", "at", "by", "why"))


@group.command("parity")
@click.argument("words", metavar="JOB | explain ID...|JOB", nargs=-1, required=True)
@click.option("--kind", type=KINDS, help="Only this kind. The default is all that are wrong.")
@limit_option
@signed()
def parity(words: tuple[str, ...], kind: str | None, limit: int, who: By) -> None:
    """List the differences of JOB's shadows, or explain them.

    `explain` takes differences by id, or all of a job's, so that the gate of `complete` opens.
    """
    runtime = parts()
    if words[0] == "explain":
        _explain(runtime, words[1:], who)
        return
    if len(words) != 1:
        raise BadInput("give one job; or explain, and then ids or one job")
    name = runtime.catalogue[words[0]].name
    differences = shadow.listed(runtime.db, name, [kind] if kind else _WORTH_A_LOOK, limit)
    if not answered(differences):
        headings = ("id", "run", "kind", "field", "planned", "live", "explained")
        table(headings, (row for one in differences for row in _difference_rows(one)))
    _say_plan(runtime, name)


def _explain(runtime: Runtime, what: tuple[str, ...], who: By) -> None:
    ids = [number for word in what if (number := whole_number(word)) is not None]
    numbered = len(ids) == len(what)
    if not what or (not numbered and len(what) > 1):
        raise BadInput("explain ids, or one job")
    if not who.why:
        raise BadInput("give --why: the gate takes your word for it")
    name = None if numbered else runtime.catalogue[what[0]].name
    done = shadow.explain(runtime.db, ids, name, who, runtime.store.clock())
    if not answered({"explained": done}):
        say(f"{plural(done, 'difference')} explained")


def _difference_rows(one: dict[str, Any]) -> list[list[Any]]:
    """A line for each field that differs, or one with the error."""
    explained = one["explained"] and one["explained"]["why"]
    head = [one["id"], one["run"], one["kind"]]
    rows = [
        [*head, each["field"], each.get("planned"), each.get("live"), explained]
        for each in one["differences"]
    ]
    if len(rows) < one["differing"]:
        rows.append([*head, f"and {one['differing'] - len(rows)} more", None, None, explained])
    return rows or [[*head, one["error"], None, None, explained]]


ROLLBACK_SECONDS = 60.0

every_option = click.option(
    "--all", "every", is_flag=True, help="Every job, also those unknown to this code."
)
wait_option = partial(
    click.option,
    *("--wait", "wait_seconds"),
    type=click.FloatRange(0, 86_400),
    show_default=True,
    help="For how many seconds to go on while some are left.",
)


@group.command("drain")
@click.argument("job", required=False)
@every_option
@click.option("--to", type=SIDES, required=True, help="The side to move them to.")
@click.option(
    "--running", is_flag=True, help="Also move running runs, at their next step boundary."
)
@signed()
@wait_option(default=0.0)
def drain(to: str, running: bool, who: By, **which: Any) -> None:
    """Move JOB's open runs and their children to the other side.

    Pending, delayed and sleeping runs move at once and keep their due times. You can interrupt and
    repeat it. Exits with 1 if some are left.
    """
    with _drain(Side(to), running, **which) as work:
        drained = acts.drain(work, who)
    _report(work, drained)


@group.command("rollback")
@click.argument("job", required=False)
@every_option
@signed(required=True)
@wait_option(default=ROLLBACK_SECONDS)
def rollback(who: By, **which: Any) -> None:
    """Move JOB to legacy, and its open runs back to RQ.

    Running ones come too, at their next step boundary. Exits with 1 if some are left on the
    serverless side after --wait. Repeat it then.
    """
    with _drain(Side.RQ, True, **which) as work:
        drained = acts.rollback(work, who)
    _report(work, drained)


@contextmanager
def _drain(
    to: Side, running: bool, job: str | None, every: bool, wait_seconds: float
) -> Iterator[drains.Drain]:
    """The drain, with a bar on a terminal. A signal ends it after the current chunk."""
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
        runs = plural(sum(unknown.values()), "run")
        say(f"not moved: {runs} of jobs unknown to this code: {names}")
    if interrupted:
        say(f"interrupted with {left} left; run it again to continue")
    elif left:
        say(f"{left} left; run it again, or give it longer with --wait")
    if left or interrupted:
        raise click.exceptions.Exit(DID_NOT_HOLD)

"""`cutover status|stage|history`: the migration."""

from __future__ import annotations

import getpass
import os
from typing import Any

import click

from app.switchyard.clock import iso
from app.switchyard.commands.output import (
    Commands,
    DidNotHold,
    document,
    json_option,
    listing,
    parts,
    say,
    table,
)
from app.switchyard.cutover import stages
from app.switchyard.cutover.status import BACKENDS, GUARDRAIL, cutover_status, move, unreachable
from app.switchyard.errors import BadInput, GateClosed, StageRefused
from app.switchyard.runtime import Runtime
from flags import Stage

NAME_LENGTH = 100

by_option = click.option("--by", help="Who; the system's user by default.")
group = Commands("cutover", help="Where each job stands in its migration, and its moves.")


@group.command("status")
@json_option
def status(as_json: bool) -> None:
    """Each job's stage, and its open, overdue and failed runs on either side; who is away."""
    shown = cutover_status(parts())
    shown["unreachable"] = unreachable(parts(), shown)
    _print(shown, as_json)
    for backend, why in shown["unreachable"].items():
        say(f"{backend} holds open runs and does not answer: {why}")


@group.command("stage")
@click.argument("words", metavar="JOB|--all STAGE", nargs=-1, required=True)
@click.option("--all", "every", is_flag=True, help="Every job of the catalogue.")
@click.option("--percent", type=float, help="Of a ramp: how many keys in a hundred.")
@click.option("--why", required=True, help="For the history.")
@by_option
@click.option("--force", is_flag=True, help="Complete it whatever speaks against it, on record.")
@json_option
def stage(
    words: tuple[str, ...],
    every: bool,
    percent: float | None,
    why: str,
    by: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Move JOB, or every job, to STAGE: legacy, shadow, ramp (with --percent), live or complete."""
    made = parts()
    if len(words) != (1 if every else 2):
        raise BadInput("give a job and a stage, or --all and a stage")
    who, to, now = named(by), words[-1], made.store.clock()
    if force and to != Stage.COMPLETE:
        raise BadInput("--force is for complete: nothing else has a gate")
    names = list(made.catalogue) if every else [made.catalogue[words[0]].name]
    if every:
        names = _elsewhere(made, names, to, percent)
    refused = []
    for name in names:
        try:
            move(made.db, name, to, percent, by=who, why=why, now=now, force=force)
        except (StageRefused, GateClosed) as refusal:
            if not every:
                raise
            refused.append(str(refusal))
    _print(cutover_status(made, None if every else names), as_json)
    if not names:
        say(f"every job already stands at {to}: nothing was changed")
    if to == Stage.SHADOW:
        for name in names:
            if made.catalogue[name].plan is None:
                say(f"{name} has no plan: nothing of it is compared")
    if to != Stage.LEGACY and not made.settings.use_inngest:
        say("USE_INNGEST is not true: new runs go to rq all the same, and none is shadowed")
    if refused:
        raise DidNotHold(f"{len(refused)} of {len(names)} jobs stay: {'; '.join(refused)}")


@group.command("history")
@click.argument("job", required=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@json_option
def history(job: str | None, limit: int, as_json: bool) -> None:
    """Who moved which job when, and why; the newest first."""
    made = parts()
    changes = stages.history(made.db, job, limit)
    if job is not None and not changes:
        _ = made.catalogue[job]
    rows = [
        {
            "at": iso(change.at),
            "job": change.job,
            "from": change.from_stage,
            "to": change.to_stage,
            "percent": change.percent,
            "by": change.by,
            "why": change.why,
            "forced": bool(change.forced),
        }
        for change in changes
    ]
    listing(rows, ("at", "job", "from", "to", "percent", "by", "why"), as_json)


def _elsewhere(made: Runtime, names: list[str], to: str, percent: float | None) -> list[str]:
    """The jobs that do not stand there already: those would be refused."""
    at = {row.job: (row.stage, row.percent) for row in stages.current_stages(made.db)}
    return [name for name in names if at.get(name) != (to, percent)]


def named(by: str | None) -> str:
    """Who does it: --by, or the system's user. Raises BadInput."""
    who = _user() if by is None else by.strip()
    if not 0 < len(who) <= NAME_LENGTH:
        raise BadInput(f"--by must have 1 to {NAME_LENGTH} characters")
    if who == GUARDRAIL:
        raise BadInput(f"--by {GUARDRAIL!r}: the guardrail signs for itself")
    return who


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user often has a number and no name.
        return f"uid {os.getuid()}"


def _print(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(shown)
        return
    say(f"USE_INNGEST is {str(shown['use_inngest']).lower()}")
    table(
        (
            "job",
            "stage",
            "%",
            *(f"open\n{b}" for b in BACKENDS),
            "overdue",
            *(f"failed\n{b}" for b in BACKENDS),
            "compared",
            "different",
        ),
        (
            (
                job["name"],
                job["stage"],
                job["percent"],
                *(job["open"][backend] for backend in BACKENDS),
                sum(job["overdue"].values()),
                *(job["failed_24h"][backend] for backend in BACKENDS),
                job["parity"]["compared"] if job["parity"]["plan"] else "no plan",
                job["parity"]["different"],
            )
            for job in shown["jobs"]
        ),
    )

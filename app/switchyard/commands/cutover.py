"""`cutover status|stage|history|pin|unpin|pins|parity|cost`: the migration."""

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
from app.switchyard.cutover import cost as costs
from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.shadow import Kind
from app.switchyard.cutover.stages import GUARDRAIL, set_stage
from app.switchyard.cutover.status import BACKENDS, cutover_status, unreachable
from app.switchyard.errors import BadInput, GateClosed, StageRefused
from app.switchyard.runtime import Runtime
from flags import Side, Stage

NAME_LENGTH = 100

by_option = click.option("--by", help="Who; the system's user by default.")
group = Commands("cutover", help="Where each job stands in its migration, and its moves.")
_WORTH_A_LOOK = [kind for kind in Kind if kind not in (Kind.EQUAL, Kind.PLANNED)]


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
            set_stage(made.db, name, to, percent, by=who, why=why, now=now, force=force)
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


@group.command("pin")
@click.argument("job")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option(
    "--to",
    "side",
    type=click.Choice([side.value for side in Side]),
    required=True,
    help="Which side.",
)
@click.option("--why", required=True, help="For the history.")
@by_option
@json_option
def pin(
    job: str, keys: tuple[str, ...], side: str, why: str, by: str | None, as_json: bool
) -> None:
    """Pin keys of JOB to a side: to rq until it is complete, to serverless in a ramp or live.

    A key is what places a run in a ramp: the creator of a payout, for others the run's own key.
    """
    _pin(job, keys, side, why, by, as_json)


@group.command("unpin")
@click.argument("job")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--why", required=True, help="For the history.")
@by_option
@json_option
def unpin(job: str, keys: tuple[str, ...], why: str, by: str | None, as_json: bool) -> None:
    """Let keys of JOB go where its stage says."""
    _pin(job, keys, None, why, by, as_json)


@group.command("pins")
@click.argument("job", required=False)
@json_option
def pins(job: str | None, as_json: bool) -> None:
    """The pinned keys, of JOB or all, and who pinned them when and why."""
    made = parts()
    _print_pins(made, None if job is None else made.catalogue[job].name, as_json)


def _pin(
    job: str, keys: tuple[str, ...], side: str | None, why: str, by: str | None, as_json: bool
) -> None:
    made = parts()
    name = made.catalogue[job].name
    changed = stages.pin(made.db, name, keys, side, by=named(by), why=why, now=made.store.clock())
    _print_pins(made, name, as_json)
    if not changed:
        say("they stood so already: nothing was changed")


def _print_pins(made: Runtime, job: str | None, as_json: bool) -> None:
    listing(stages.pinned_keys(made.db, job), ("key", "job", "side", "at", "by", "why"), as_json)


@group.command("parity")
@click.argument("words", metavar="JOB | explain ID...|JOB", nargs=-1, required=True)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    help="Only these; by default what is wrong.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--why", help="Of explain: for the record.")
@by_option
@json_option
def parity(
    words: tuple[str, ...],
    kind: str | None,
    limit: int,
    why: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """List where shadows of JOB differ, newest first; or explain differences, by their ids or all
    of a job's, so that the gate of `complete` opens."""
    made = parts()
    if words[0] == "explain" and len(words) > 1:
        numbered = all(word.isdecimal() for word in words[1:])
        if not numbered and len(words) > 2:
            raise BadInput("explain ids, or one job")
        if why is None:
            raise BadInput("say --why: the gate takes your word for it")
        name = None if numbered else made.catalogue[words[1]].name
        ids = [int(word) for word in words[1:]] if numbered else []
        done = shadow.explain(made.db, ids, name, by=named(by), why=why, now=made.store.clock())
        if as_json:
            document({"explained": done})
        else:
            say(f"{done} differences explained")
        return
    if len(words) != 1:
        raise BadInput("give one job, or explain and what")
    spec = made.catalogue[words[0]]
    found = shadow.listed(made.db, spec.name, _WORTH_A_LOOK if kind is None else [kind], limit)
    if as_json:
        document(found)
    else:
        headings = ("id", "run", "kind", "field", "planned", "live", "explained")
        table(headings, (row for one in found for row in _difference_rows(one)))
    if spec.plan is None:
        say(f"{spec.name} has no plan: nothing of it is compared")


def _difference_rows(one: dict[str, Any]) -> list[list[Any]]:
    """A line per field that differs, or one with the error."""
    explained = one["explained"] and one["explained"]["why"]
    head = [one["id"], one["run"], one["kind"]]
    rows = [
        [*head, each["field"], each.get("planned"), each.get("live"), explained]
        for each in one["differences"]
    ]
    if len(rows) < one["differing"]:
        rows.append([*head, f"and {one['differing'] - len(rows)} more", None, None, explained])
    return rows or [[*head, one["error"], None, None, explained]]


@group.command("cost")
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True)
@json_option
def cost(days: int, as_json: bool) -> None:
    """What the last days' runs would have cost on the serverless side, by the guide's prices."""
    made = parts()
    kept = made.settings.retention_days
    if 0 < kept < days:
        raise BadInput(f"--days: at most {kept}, as steps are kept no longer (RETENTION_DAYS)")
    found = costs.cost(made.db, made.catalogue, made.store.clock(), days)
    if as_json:
        document(found)
        return
    for rows in (found["jobs"], found["services"]):
        if rows:
            table(list(rows[0]), (list(row.values()) for row in rows))
            say("")
    total = found["usd_a_month"]
    price = "more than the largest plan" if total is None else f"{total} USD a month"
    say(f"{price}, without the cache; prices are the migration guide's of {found['plans_dated']}")

"""`cutover pin|unpin|pins`: keys that are on one side whatever the percent says."""

from __future__ import annotations

from dataclasses import asdict

import click
from flask.cli import with_appcontext

from app.switchyard.clock import iso
from app.switchyard.commands.cutover import by_option, named
from app.switchyard.commands.output import json_option, listing, parts, say
from app.switchyard.cutover import stages as store
from app.switchyard.runtime import Runtime
from flags import Side


@click.command("pin")
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
@with_appcontext
def pin(
    job: str, keys: tuple[str, ...], side: str, why: str, by: str | None, as_json: bool
) -> None:
    """Pin keys of JOB to a side: to rq until it is complete, to serverless in a ramp or live.

    A key is what places a run in a ramp: the creator of a payout, for others the run's own key.
    """
    _change(job, keys, side, why, by, as_json)


@click.command("unpin")
@click.argument("job")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--why", required=True, help="For the history.")
@by_option
@json_option
@with_appcontext
def unpin(job: str, keys: tuple[str, ...], why: str, by: str | None, as_json: bool) -> None:
    """Let keys of JOB go where its stage says."""
    _change(job, keys, None, why, by, as_json)


@click.command("pins")
@click.argument("job", required=False)
@json_option
@with_appcontext
def pins(job: str | None, as_json: bool) -> None:
    """The pinned keys, of JOB or all, and who pinned them when and why."""
    made = parts()
    _show(made, None if job is None else made.catalogue[job].name, as_json)


def _change(
    job: str, keys: tuple[str, ...], side: str | None, why: str, by: str | None, as_json: bool
) -> None:
    made = parts()
    name = made.catalogue[job].name
    changed = store.pin(made.db, name, keys, side, by=named(by), why=why, now=made.store.clock())
    _show(made, name, as_json)
    if not changed:
        say("they stood so already: nothing was changed")


def _show(made: Runtime, job: str | None, as_json: bool) -> None:
    rows = [asdict(pin) | {"at": iso(pin.at)} for pin in store.pinned_keys(made.db, job)]
    listing(rows, ("key", "job", "side", "at", "by", "why"), as_json)

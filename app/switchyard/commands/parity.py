"""`cutover parity`: where shadows differ from what they shadowed, and why."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import with_appcontext

from app.switchyard.commands.cutover import by_option, named
from app.switchyard.commands.output import document, json_option, parts, say, table
from app.switchyard.cutover import shadow as store
from app.switchyard.cutover.shadow import Kind
from app.switchyard.errors import BadInput

_SHOWN = [kind for kind in Kind if kind not in (Kind.EQUAL, Kind.PLANNED)]


@click.command("parity")
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
@with_appcontext
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
        done = store.explain(made.db, ids, name, by=named(by), why=why, now=made.store.clock())
        if as_json:
            document({"explained": done})
        else:
            say(f"{done} differences explained")
        return
    if len(words) != 1:
        raise BadInput("give one job, or explain and what")
    spec = made.catalogue[words[0]]
    found = store.listed(made.db, spec.name, _SHOWN if kind is None else [kind], limit)
    if as_json:
        document(found)
    else:
        headings = ("id", "run", "kind", "field", "planned", "live", "explained")
        table(headings, (row for one in found for row in _rows(one)))
    if spec.plan is None:
        say(f"{spec.name} has no plan: nothing of it is compared")


def _rows(one: dict[str, Any]) -> list[list[Any]]:
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

"""`cutover inventory`: the guide's table from the catalogue, and what is in a live Redis."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import with_appcontext

from app.switchyard.commands.output import document, json_option, parts, say, table
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runtime import Runtime
from queues.inventory import GONE, PICKLED, PLACES, UNREADABLE, QueueCensus, census, is_ours

MOST = 20_000
_SHOWN = ("name", "event", "schedule", "queue", "serverless", "file")
UNKNOWN = (PICKLED, GONE, UNREADABLE)


@click.command("inventory")
@click.option(
    "--most",
    type=click.IntRange(0, 1_000_000),
    default=MOST,
    show_default=True,
    help="How many jobs of each queue and place are looked at for their function.",
)
@json_option
@with_appcontext
def inventory(most: int, as_json: bool) -> None:
    """Every job, what is in Redis by function, and which call sites still go to RQ. Read only."""
    made = parts()
    found = taken(made, most)
    if as_json:
        document(found)
        return
    shown = (*_SHOWN, "legacy")
    table(shown, ([job[name] for name in shown] for job in found["jobs"]))
    if not found["redis"]["reachable"]:
        say(f"what is in Redis is not known: {found['redis']['error']}")
        return
    rows = [
        (queue["name"], row["function"], *(row[place] for place in PLACES), _known(row))
        for queue in found["redis"]["queues"]
        for row in [{"function": "(all)", "known": None} | queue, *queue["functions"]]
    ]
    say("")
    table(("queue", "function", *PLACES, "declared"), rows)
    say("")
    sites = ("function", "went", "why", "count")
    table(sites, ([site[name] for name in sites] for site in found["redis"]["call_sites"]))


def taken(made: Runtime, most: int) -> dict[str, Any]:
    """`cutover inventory --json`."""
    jobs = [
        {name: getattr(spec, name) for name in _SHOWN}
        | {"legacy": None if spec.legacy is None else spec.legacy.function}
        for spec in made.catalogue.values()
    ]
    try:
        queues, sites = census(made.settings.redis_url, most)
    except BackendUnavailable as away:
        nothing: dict[str, Any] = {"queues": [], "call_sites": []}
        return {"jobs": jobs, "redis": {"reachable": False, "error": str(away)} | nothing}
    return {
        "jobs": jobs,
        "redis": {
            "reachable": True,
            "error": None,
            "queues": [_queue(made, queue) for queue in queues],
            "call_sites": sites,
        },
    }


def _queue(made: Runtime, queue: QueueCensus) -> dict[str, Any]:
    functions = [
        {
            "function": function,
            "known": None if function in UNKNOWN else _declared(made, function),
            **{place: counts[place] for place in PLACES},
        }
        for function, counts in sorted(queue.functions.items())
    ]
    pickled = queue.functions.get(PICKLED)
    return {
        "name": queue.name,
        **queue.counts,
        "pickled": 0 if pickled is None else pickled.total(),
        "looked_at": queue.looked_at,
        "functions": functions,
    }


def _declared(made: Runtime, function: str) -> bool:
    return is_ours(function) or function in made.catalogue.legacy()


def _known(row: dict[str, Any]) -> str | None:
    return None if row["known"] is None else "yes" if row["known"] else "no"

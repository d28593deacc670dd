"""`cutover inventory`: the guide's table from the catalogue, and what is in a live Redis."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from app.switchyard.commands.cutover import group
from app.switchyard.commands.output import answered, listing, parts, say, table
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runtime import Runtime
from queues.allowed import OWN
from queues.inventory import GONE, PICKLED, STATUSES, UNREADABLE, QueueInventory, take

MOST = 20_000
_JOB = ("name", "event", "schedule", "queue", "serverless", "file")
_SHOWN = {
    "workers": ("name", "host", "pid", "queues", "ours"),
    "cron": ("func_name", "queue_name", "cron", "interval", "bypasses"),
    "call_sites": ("function", "went", "why", "count"),
}
UNKNOWN = (PICKLED, GONE, UNREADABLE)


@group.command("inventory")
@click.option(
    "--most",
    type=click.IntRange(0, 1_000_000),
    default=MOST,
    show_default=True,
    help="How many jobs of each queue and status are looked at for their function.",
)
def inventory(most: int) -> None:
    """Every job, what is in Redis by function, and which call sites still go to RQ. Read only."""
    taken = inventory_of(parts(), most)
    if answered(taken):
        return
    listing(taken["jobs"], (*_JOB, "legacy"))
    redis = taken["redis"]
    if not redis["reachable"]:
        say(f"what is in Redis is not known: {redis['error']}")
        return
    rows = [
        (queue["name"], row["function"], *(row[status] for status in STATUSES), _declared(row))
        for queue in redis["queues"]
        for row in [{"function": "(all)", "known": None} | queue, *queue["functions"]]
    ]
    say("")
    table(("queue", "function", *STATUSES, "declared"), rows)
    for name, columns in _SHOWN.items():
        say("")
        listing(redis[name], columns)


def inventory_of(runtime: Runtime, most: int) -> dict[str, Any]:
    """`cutover inventory --json`."""
    jobs = [
        {name: getattr(spec, name) for name in _JOB}
        | {"legacy": None if spec.legacy is None else spec.legacy.function}
        for spec in runtime.catalogue.values()
    ]
    redis: dict[str, Any] = {"reachable": False, "error": None}
    redis |= {"queues": [], "workers": [], "cron": [], "call_sites": []}
    try:
        seen = take(runtime.settings.redis_url, most)
    except BackendUnavailable as unavailable:
        return {"jobs": jobs, "redis": redis | {"error": str(unavailable)}}
    redis["reachable"] = True
    redis["queues"] = [_queue(runtime, queue) for queue in seen.queues]
    redis["workers"] = [asdict(worker) for worker in seen.workers]
    redis["cron"] = [
        entry | {"bypasses": bypassed(runtime, str(entry.get("func_name")))} for entry in seen.cron
    ]
    redis["call_sites"] = seen.call_sites
    return {"jobs": jobs, "redis": redis}


def _queue(runtime: Runtime, queue: QueueInventory) -> dict[str, Any]:
    functions = []
    for function, counts in sorted(queue.functions.items()):
        bypasses = bypassed(runtime, function)
        known = None if function in UNKNOWN else function in OWN or bypasses is not None
        counted = {status: counts[status] for status in STATUSES}
        functions.append({"function": function, "known": known, "bypasses": bypasses, **counted})
    return {
        "name": queue.name,
        **queue.counts,
        "pickled": queue.pickled,
        "looked_at": queue.looked_at,
        "functions": functions,
    }


def bypassed(runtime: Runtime, function: str) -> str | None:
    """The job whose flag and ledger an RQ job of this function goes past."""
    spec = runtime.catalogue.legacy().get(function)
    return None if spec is None else spec.name


def _declared(row: dict[str, Any]) -> str | None:
    if row.get("bypasses") is not None:
        return f"{row['bypasses']}, but it goes past its flag"
    return None if row["known"] is None else "yes" if row["known"] else "no"

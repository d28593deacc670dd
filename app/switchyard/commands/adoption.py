"""`cutover inventory` and `flask switchyard adopt`: what a live Redis and the app's source show of
RQ, and what to do to move the app's tasks. Neither changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from app.switchyard import extras
from app.switchyard.commands.cutover import group
from app.switchyard.commands.database import standing
from app.switchyard.commands.output import (
    Process,
    answered,
    hushed,
    json_option,
    listing,
    parts,
    say,
    table,
)
from app.switchyard.config import split
from app.switchyard.errors import BackendUnavailable, SettingsError
from app.switchyard.job import SERVERLESS
from app.switchyard.runtime import Runtime
from app.switchyard.words import plural
from queues.adopt import adopt
from queues.allowed import OWN
from queues.backend import WORKER_COMMAND
from queues.callsites import DEFAULT_SECONDS, Sources, Task
from queues.inventory import GONE, PICKLED, RQ_SCHEDULER, STATUSES, UNREADABLE, QueueInventory, take

MOST = 2000
_WAITING = ("queued", "scheduled", "started", "deferred")
_NEEDED = {
    "inngest": ("inngest_event_key", "inngest_signing_key"),
    "qstash": ("qstash_token", "qstash_current_signing_key", "qstash_next_signing_key"),
}


@click.command("adopt", cls=Process)
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The folder from which the app's modules are imported.",
)
@click.option(
    "--side",
    "sides",
    type=click.Choice(SERVERLESS),
    multiple=True,
    default=("inngest",),
    show_default=True,
    help="The serverless side that you want; repeat it for both.",
)
@json_option
@with_appcontext
def adoption(source: Path, sides: tuple[str, ...]) -> None:
    """Show what to change to adopt this app's RQ tasks.

    It only looks, and changes nothing.
    """
    with hushed():
        found = adoption_of(parts(), source.resolve(), sides)
    if not answered(found):
        _show(found)


def adoption_of(runtime: Runtime, source: Path, sides: tuple[str, ...]) -> dict[str, Any]:
    """`flask switchyard adopt --json`."""
    sources = Sources(source)
    redis = inventory_of(runtime, MOST)["redis"]
    waiting = _waiting(redis)
    lacking = [*_lacking(runtime, sides), *_for_old_jobs(runtime, redis, waiting)]
    for function, queue in waiting:
        task = sources.task(function)
        task.queue = task.queue or (None if queue == RQ_SCHEDULER else queue)
    declared = runtime.catalogue.legacy
    tasks = [task for path, task in sorted(sources.tasks.items()) if path not in declared]
    taken = [*sources.tasks, *(name.replace("-", "_") for name in runtime.catalogue)]
    return {
        "changes": [asdict(change) for change in sources.changes],
        "tasks": [_adopted(task, taken) for task in tasks],
        "declared": sorted(declared),
        "unreadable": sources.unreadable,
        "redis": {name: redis[name] for name in ("reachable", "error", "unreadable")},
        "workers": _workers(redis),
        "cron": redis["cron"],
        "settings": [{"name": name, "do": do} for name, do in lacking],
    }


def _waiting(redis: dict[str, Any]) -> dict[tuple[str, str], int]:
    """The number of old jobs of a function that wait in a queue."""
    return {
        (row["function"], queue["name"]): count
        for queue in redis["queues"]
        for row in queue["functions"]
        if row["function"] not in (*OWN, GONE, PICKLED, UNREADABLE)
        and (count := sum(row[status] for status in _WAITING))
    }


def _suffix(path: str, others: Sequence[str]) -> list[str]:
    """The shortest end of the path that distinguishes it from the others."""
    parts = path.split(".")
    same = [other for other in others if other != path]
    for length in range(1, len(parts)):
        end = "." + ".".join(parts[-length:])
        if not any(f".{other}".endswith(end) for other in same):
            return parts[-length:]
    return parts


def _adopted(task: Task, taken: Sequence[str]) -> dict[str, Any]:
    """The line that adopts the task, or why it cannot be adopted."""
    options: dict[str, Any] = {}
    suffix = _suffix(task.path, taken)
    if len(suffix) > 1:
        options["name"] = "-".join(suffix).replace("_", "-")
    if task.queue not in (None, "default"):
        options["queue"] = task.queue
    options["attempts"] = task.attempts
    if task.gaps:
        options["gaps"] = task.gaps
    if task.timeout not in (0, DEFAULT_SECONDS):
        options["timeout"] = task.timeout
    refused = None
    try:
        adopt(task.path, **options)
    except SettingsError as unfit:
        refused = str(unfit)
    given = "".join(f", {name}={value!r}".replace("'", '"') for name, value in options.items())
    line = f'adopt("{task.path}"{given})'
    return {"path": task.path, "adopt": line, "refused": refused, "calls": task.calls}


def _workers(redis: dict[str, Any]) -> list[dict[str, Any]]:
    """Old workers. RQ does not register a serializer, so it is inferred from their queues."""
    seen = {queue["name"]: queue for queue in redis["queues"]}
    rows = []
    for worker in redis["workers"]:
        if worker["ours"]:
            continue
        queues = [seen[name] for name in worker["queues"] if name in seen]
        pickled = sum(queue["pickled"] for queue in queues)
        looked_at = sum(queue["looked_at"] for queue in queues)
        serializer = "pickle" if pickled else "json" if looked_at else "not known"
        rows.append({**worker, "serializer": serializer, "start": WORKER_COMMAND})
    return rows


def _lacking(runtime: Runtime, sides: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each setting that is missing, and what to do about it."""
    settings = runtime.settings
    for row in standing(runtime):
        if row["revision"] != row["head"]:
            yield ("tables", "flask switchyard db upgrade")
    for side in sides:
        lacking = extras.missing(side)
        if lacking is not None:
            yield (side, lacking)
        if side == "inngest" and settings.inngest_dev is not None:
            continue
        for name in _NEEDED[side]:
            if getattr(settings, name) is None:
                yield (name.upper(), f"{side} needs it")
    is_local = settings.inngest_dev is not None and sides == ("inngest",)
    if settings.backend_url is None and not is_local:
        yield ("BACKEND_URL", "the app's public address")
    if settings.admin_token is None:
        yield ("ADMIN_TOKEN", "for the console and the trigger, unless access= decides")
    if not settings.use_inngest:
        yield ("USE_INNGEST", "true, once a job should leave RQ; until then stages have no effect")


def _for_old_jobs(
    runtime: Runtime, redis: dict[str, Any], waiting: dict[tuple[str, str], int]
) -> Iterator[tuple[str, str]]:
    """The settings that allow our worker to perform the jobs that are in Redis already."""
    if not waiting:
        return
    settings = runtime.settings
    served = {spec.queue for spec in runtime.catalogue.values()} | set(
        split(settings.legacy_queues)
    )
    allowed = set(split(settings.legacy_functions))
    refused = {
        call: count
        for call, count in waiting.items()
        if allowed.isdisjoint({call[0], f"{call[0].rpartition('.')[0]}.*"})
    }
    if refused:
        functions = ",".join(sorted({function for function, _ in refused}))
        jobs = plural(sum(refused.values()), "old job")
        yield ("LEGACY_FUNCTIONS", f"{functions}: {jobs} waiting")
    queues = ",".join(sorted({queue for _, queue in waiting} - served - {RQ_SCHEDULER}))
    if queues:
        yield ("LEGACY_QUEUES", f"{queues}: they have no declared job")
    if any(queue["pickled"] for queue in redis["queues"]) and not settings.legacy_pickle:
        yield ("LEGACY_PICKLE", "true while pickled jobs are waiting; unset it afterwards")


def _show(found: dict[str, Any]) -> None:
    if found["changes"]:
        say("Lines to change:")
        rows = [(f"{c['file']}:{c['line']}", c["code"], c["do"]) for c in found["changes"]]
        table(("where", "code", "do"), rows)
    lines = [f"    {task['adopt']}," for task in found["tasks"] if task["refused"] is None]
    if lines:
        say("Tasks to adopt, in Switchyard(app, jobs=[…]):")
        click.echo("\n".join(lines))
    for task in found["tasks"]:
        if task["refused"] is not None:
            say(f"{task['path']} cannot be adopted yet: {task['refused']}")
    for name, columns in (
        ("workers", ("name", "host", "pid", "queues", "serializer", "start")),
        ("cron", ("func_name", "queue_name", "cron", "interval", "bypasses")),
        ("settings", ("name", "do")),
    ):
        if found[name]:
            say(f"{name.capitalize()}:")
            table(columns, ([row.get(column) for column in columns] for row in found[name]))
    _show_unknown(found["redis"])
    for path in found["unreadable"]:
        say(f"{path} was skipped: this Python cannot parse it")


def _show_unknown(redis: dict[str, Any]) -> None:
    if not redis["reachable"]:
        say(f"the contents of Redis are unknown: {redis['error']}")
    for row in redis["unreadable"]:
        say(f"{row['key']} in Redis cannot be read: {row['why']}")


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
    default=20_000,
    show_default=True,
    help="How many jobs in each queue and status to look at for their function.",
)
def inventory(most: int) -> None:
    """List the jobs, what is in Redis, and calls that still use RQ."""
    taken = inventory_of(parts(), most)
    if answered(taken):
        return
    listing(taken["jobs"], (*_JOB, "legacy"))
    redis = taken["redis"]
    _show_unknown(redis)
    if not redis["reachable"]:
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
    redis |= {"queues": [], "workers": [], "cron": [], "call_sites": [], "unreadable": []}
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
    redis["unreadable"] = [{"key": key, "why": why} for key, why in seen.unreadable.items()]
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
    """The job whose flag and ledger an RQ job of this function bypasses."""
    spec = runtime.catalogue.legacy.get(function)
    return None if spec is None else spec.name


def _declared(row: dict[str, Any]) -> str | None:
    if row.get("bypasses") is not None:
        return f"{row['bypasses']}, but it bypasses the flag"
    return None if row["known"] is None else "yes" if row["known"] else "no"

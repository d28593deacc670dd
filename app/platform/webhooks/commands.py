"""`webhooks list|sources|dead|replay`: what was taken, who gets it, and who did not."""

from __future__ import annotations

import json
from typing import Any

import click
from sqlalchemy import func, literal_column, select

from app.platform.webhooks.config import STRIPE
from app.platform.webhooks.inbox import Received as E
from app.switchyard.clock import iso
from app.switchyard.commands.output import Commands, document, json_option, listing, parts, say
from app.switchyard.commands.telling import watched
from app.switchyard.errors import BadInput, RunNotMovable
from app.switchyard.runs import operate
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime

JOB = "deliver-webhook"
# Spelled out, not bound: SQLite uses the partial index of failed runs only so.
_DEAD = select(R.id, R.payload, R.ended_at, R.error).where(
    R.job == JOB, R.status == literal_column("'failed'")
)

group = Commands("webhooks", help="Webhooks taken and relayed.")


@group.command("sources")
@json_option
def sources(as_json: bool) -> None:
    """Whose webhooks are taken, and which targets get them."""
    settings = parts().settings
    names = {
        name: ", ".join(f"{s.scheme}" for s in them) for name, them in settings.sources.items()
    }
    if settings.stripe_webhook_secret is not None:
        names = {STRIPE: "stripe", **names}
    rows = [
        {
            "name": name,
            "scheme": scheme,
            "path": f"/api/webhooks/{name}",
            "targets": [to.name for to in settings.targets.values() if to.wants(name)],
        }
        for name, scheme in names.items()
    ]
    listing(rows, ("name", "scheme", "path", "targets"), as_json)


@group.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@json_option
def list_events(limit: int, as_json: bool) -> None:
    """The newest webhooks first, and how their deliveries stand."""
    newest = select(E.id, E.source, E.event, E.received_at, func.length(E.body).label("bytes"))
    newest = newest.order_by(E.received_at.desc()).limit(limit)
    made = parts()
    with made.db.autocommit() as connection:
        rows = [row._asdict() for row in connection.execute(newest)]
        for row in rows:
            keys = [f"{row['id']}:{name}" for name in made.settings.targets]
            of_event = select(R.key, R.status).where(R.job == JOB, R.key.in_(keys))
            found = connection.execute(of_event.order_by(R.key))
            row["deliveries"] = {key.rpartition(":")[2]: status for key, status in found}
            row["received_at"] = iso(row["received_at"])
    listing(rows, ("id", "source", "event", "received_at", "bytes", "deliveries"), as_json)


@group.command("dead")
@click.option("--target", help="Only those to this target.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
def dead(target: str | None, limit: int, as_json: bool) -> None:
    """Deliveries that failed for good, the latest first."""
    rows = _dead(parts(), target, limit)
    listing(rows, ("run", "event", "target", "ended_at", "error"), as_json)


@group.command("replay")
@click.argument("runs", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--target", help="With --all: only those to this target.")
@json_option
def replay(runs: tuple[str, ...], every: bool, target: str | None, as_json: bool) -> None:
    """Deliver dead letters once more, with fresh tries; RUNS are as `dead` lists them."""
    made, failures = watched(parts())
    if bool(runs) == every or (target is not None and not every):
        raise BadInput("give runs, or --all (with --target for those of one target)")
    known = {row["run"] for row in _dead(made, target, None)}
    for run in runs:
        if run not in known:
            raise BadInput(f"{run} is no dead letter")
    replayed = []
    for run in runs or sorted(known):
        try:
            operate.retry(made.store, run)
        except RunNotMovable:
            say(f"{run} was replayed meanwhile")
        else:
            replayed.append(run)
    if as_json:
        document({"replayed": replayed})
    else:
        say(f"{len(replayed)} replayed")
    for failure in dict.fromkeys(failures):
        say(f"not told yet: {failure}; the relay tells it")


def _dead(made: Runtime, target: str | None, limit: int | None) -> list[dict[str, Any]]:
    chosen = _DEAD.order_by(R.ended_at.desc(), R.id.desc()).limit(limit)
    if target is not None:
        chosen = chosen.where(R.key.endswith(f":{target}", autoescape=True))
    with made.db.autocommit() as connection:
        rows = connection.execute(chosen).all()
    told = [(row, json.loads(row.payload)) for row in rows]
    return [
        {
            "run": row.id,
            "event": payload["eventId"],
            "target": payload["target"],
            "ended_at": iso(row.ended_at),
            "error": row.error,
        }
        for row, payload in told
    ]

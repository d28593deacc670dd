"""`cutover verify`: the migration guide's checklist, checked."""

from __future__ import annotations

import click
from flask.cli import with_appcontext
from rich.progress import Progress

from app.switchyard.commands import inside, inventory, outside
from app.switchyard.commands.checks import verify as checked
from app.switchyard.commands.database import standing
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    console,
    document,
    json_option,
    parts,
    table,
)
from app.switchyard.errors import CheckFailed
from app.switchyard.runtime import Check, Runtime
from queues.backend import WORKER_COMMAND

LONGEST_SECONDS = inside.CANARY_SECONDS + 8
"""Of any check: a backend that is away also takes its time to say so."""


def migrated(made: Runtime) -> str:
    """The database answers, and its tables are those of this version."""
    for row in standing(made):
        if row["revision"] != row["head"]:
            where = f"{row['revision']}, this version's are {row['head']}"
            raise CheckFailed(f"the tables of {row['name']} are at {where}")
    return "it answers; the tables are those of this version"


CHECKS = (
    Check("sdks", outside.sdks, "pip install -r requirements.txt"),
    Check(
        "database",
        migrated,
        "see that DATABASE_URL is right and it is up; then `flask --app app db upgrade`",
    ),
    Check("redis", inside.redis, "see that REDIS_URL is right and Redis up"),
    Check("rq-workers", inventory.workers_fit, f"start `{WORKER_COMMAND}` in their place"),
    Check(
        "rq-bypasses",
        inventory.nothing_bypasses,
        "`cutover inventory` shows which: have it enqueue with queues.Queue, give its schedule to"
        " the job, or let the old function dispatch (docs/old-call-sites.md)",
    ),
    Check("cache", outside.cache, "see UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN"),
    Check(
        "inngest-key",
        outside.inngest_key,
        "set INNGEST_EVENT_KEY and INNGEST_SIGNING_KEY of the same environment at Inngest",
    ),
    Check(
        "inngest-functions",
        outside.inngest_functions,
        "deploy this version, then sync the app at Inngest (its URL is BACKEND_URL/api/inngest);"
        " where Inngest does not say, compare its dashboard with `jobs list`",
    ),
    Check("qstash-token", outside.qstash_token, "set QSTASH_TOKEN and BACKEND_URL"),
    Check("qstash-schedules", outside.qstash_schedules, "`flask --app app qstash sync`"),
    Check("address", outside.address, "set BACKEND_URL to where web is reached from outside"),
    Check(
        "signatures",
        outside.signatures,
        "set the variable named, no INNGEST_DEV, and deploy: anybody may start jobs until then",
    ),
    Check(
        "canary-rq",
        inside.canary("rq"),
        "see that a worker runs and serves the queue maintenance",
        LONGEST_SECONDS,
    ),
    Check(
        "canary-inngest",
        inside.canary("inngest"),
        "see inngest-key, inngest-functions and address; Inngest's dashboard shows its calls",
        LONGEST_SECONDS,
    ),
    Check(
        "canary-qstash",
        inside.canary("qstash"),
        "see qstash-token and address; QStash's console shows its deliveries",
        LONGEST_SECONDS,
    ),
    Check("clocks", inside.clocks, "see that a clock process runs, or Inngest's or QStash's cron"),
    Check("lost-runs", inside.lost, "see that a relay process runs, or relay-sweep each minute"),
)


@click.command("verify")
@json_option
@with_appcontext
def verify(as_json: bool) -> None:
    """Check every line of the migration's checklist; 1 where one does not hold."""
    made = parts()
    checks = [*CHECKS, *made.checks]
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("checked", total=len(checks), visible=progress.console.is_terminal)
        answers = checked(made, checks, lambda: progress.advance(task))
    if as_json:
        document(answers)
    else:
        table(
            ("check", "ok", "detail", "to do"),
            ((a["check"], "yes" if a["ok"] else "NO", a["detail"], a["fix"]) for a in answers),
        )
    if not all(answer["ok"] for answer in answers):
        raise SystemExit(DID_NOT_HOLD)

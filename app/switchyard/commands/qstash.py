"""`qstash sync|list`: the catalogue's schedules at QStash."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from app.switchyard.clock import moment
from app.switchyard.commands.output import Commands, answered, listing, parts, say, table
from workflows.schedules import connect, ours, sync

group = Commands("qstash", help="Keep QStash's schedules in step with the catalogue.")


@group.command("sync")
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
def sync_schedules(dry_run: bool) -> None:
    """Make QStash tick every scheduled job.

    Schedules that are not this app's stay as they are.
    """
    done = asdict(sync(parts(), dry_run=dry_run))
    if not answered(done):
        table(("schedule", "is"), ((id, what) for what, ids in done.items() for id in ids))
    if dry_run:
        say("a dry run: nothing was changed")


@group.command("list")
def list_schedules() -> None:
    """List our schedules at QStash."""
    rows = [
        {
            "id": schedule.schedule_id,
            "cron": schedule.cron,
            "destination": schedule.destination,
            "paused": schedule.paused,
            "next": _when(schedule.next_schedule_time),
            "last": _when(schedule.last_schedule_time),
        }
        for schedule in ours(connect(parts().settings))
    ]
    listing(rows, ("id", "cron", "destination", "paused", "next", "last"))


def _when(unix_ms: int | None) -> datetime | None:
    return moment(unix_ms / 1000) if unix_ms else None

"""`qstash sync|list`: the schedules at QStash, as the catalogue says."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from app.switchyard.clock import moment
from app.switchyard.commands.output import Commands, answered, listing, parts, say, table
from workflows.sync import connect, ours, sync

group = Commands("qstash", help="The schedules at QStash, as the catalogue says.")


@group.command("sync")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
def sync_schedules(dry_run: bool) -> None:
    """Have QStash tick every scheduled job; schedules of others stay as they are."""
    done = asdict(sync(parts(), dry_run=dry_run))
    if not answered(done):
        table(("schedule", "is"), ((id, what) for what, ids in done.items() for id in ids))
    if dry_run:
        say("a dry run: nothing was changed")


@group.command("list")
def list_schedules() -> None:
    """Our schedules as QStash has them."""
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

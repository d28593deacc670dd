"""`cutover cost`: what the serverless side would have cost."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.switchyard.commands.output import document, json_option, parts, say, table
from app.switchyard.cutover.cost import cost as counted
from app.switchyard.errors import BadInput


@click.command("cost")
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True)
@json_option
@with_appcontext
def cost(days: int, as_json: bool) -> None:
    """What the last days' runs would have cost on the serverless side, by the guide's prices."""
    made = parts()
    kept = made.settings.retention_days
    if 0 < kept < days:
        raise BadInput(f"--days: at most {kept}, as steps are kept no longer (RETENTION_DAYS)")
    found = counted(made.db, made.catalogue, made.store.clock(), days)
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

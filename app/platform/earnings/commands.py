"""`earnings backfill`: the sums of a range of days made anew."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import click
from rich.progress import Progress
from sqlalchemy import insert, select

from app.platform.earnings import rollup
from app.platform.earnings.models import DirtyDay
from app.switchyard.clock import in_reach
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    console,
    json_option,
    parts,
    record,
)
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.errors import BadInput

MOST_DAYS = 3_653
"""Ten years."""

group = Commands("earnings", help="What creators earned.")
_DATE = click.DateTime(["%Y-%m-%d"])


@group.command("backfill")
@click.option("--from", "since", required=True, type=_DATE)
@click.option("--to", "until", required=True, type=_DATE, help="With this day.")
@json_option
def backfill(since: datetime, until: datetime, as_json: bool) -> None:
    """Roll days up anew. Interrupted, the same command goes on where it stopped."""
    first, last = _reached(since), _reached(until)
    whole = (last - first).days + 1
    if not 1 <= whole <= MOST_DAYS:
        raise BadInput(f"--from {first} --to {last} is not 1 to {MOST_DAYS} days")
    # The range's own mark on its days that are not done yet: below those of the triggers.
    own, db = -(first.toordinal() << 22 | last.toordinal()), parts().db
    with db.begin() as tx:
        marked = select(DirtyDay.day).where(DirtyDay.mark == own).order_by(DirtyDay.day)
        left = list(tx.scalars(marked))
        if not left:
            left = [first + timedelta(days=n) for n in range(whole)]
            tx.execute(insert(DirtyDay), [{"day": day, "mark": own} for day in left])
    done, stderr = 0, console(stderr=True)
    with stop_on_signals() as stop, Progress(console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("days", total=whole, completed=whole - len(left))
        for day in left:
            if stop.is_set():
                break
            with db.begin() as tx:
                rollup.roll_day(tx, day)
                if day == last or (day + timedelta(days=1)).day == 1:
                    rollup.roll_months(tx, [day])
            done += 1
            bar.advance(task)
    rest = len(left) - done
    record(
        {"from": f"{first}", "to": f"{last}", "days": whole, "done": done, "left": rest}
        | {"resumed": len(left) < whole},
        as_json,
    )
    if rest:
        raise click.exceptions.Exit(DID_NOT_HOLD)


def _reached(moment: datetime) -> date:
    try:
        return in_reach(moment.date())
    except ValueError as wrong:
        raise BadInput(str(wrong)) from None

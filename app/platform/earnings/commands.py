"""The commands `earnings backfill` and `earnings import`."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress
from sqlalchemy import insert, select

from app.platform.earnings import csv_import, rollup
from app.platform.earnings.models import DirtyDay
from app.switchyard.clock import in_reach
from app.switchyard.commands import output
from app.switchyard.commands.signals import stop_on_signals
from app.switchyard.errors import BadInput

MOST_DAYS = 3_653
"""Ten years."""
MOST_LINES = 1_000
"""The most bad lines in the JSON document. Standard error has them all."""

group = output.Commands("earnings", help="Import earnings, and rebuild their sums.")
_DATE = click.DateTime(["%Y-%m-%d"])


@group.command("backfill")
@click.option(
    "--from", "since", required=True, type=_DATE, metavar="DATE", help="The first day: 2031-05-04."
)
@click.option(
    "--to", "until", required=True, type=_DATE, metavar="DATE", help="The last day, included."
)
def backfill(since: datetime, until: datetime) -> None:
    """Rebuild the sums of these days.

    If it is interrupted, the same command continues where it stopped.
    """
    first, last = _reached(since), _reached(until)
    whole = (last - first).days + 1
    if not 1 <= whole <= MOST_DAYS:
        raise BadInput(f"--from {first} --to {last} must be 1 to {MOST_DAYS} days")
    # The range's own mark for days that are not done yet. It is negative, unlike the triggers'.
    own, db = -(first.toordinal() << 22 | last.toordinal()), output.parts().db
    with db.begin() as tx:
        marked = select(DirtyDay.day).where(DirtyDay.mark == own).order_by(DirtyDay.day)
        left = list(tx.scalars(marked))
        if not left:
            left = [first + timedelta(days=n) for n in range(whole)]
            tx.execute(insert(DirtyDay), [{"day": day, "mark": own} for day in left])
    done, stderr = 0, output.console(stderr=True)
    with stop_on_signals() as stop, Progress(console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("days", total=whole, completed=whole - len(left))
        for day in left:
            if stop.is_set():
                break
            with db.begin() as tx:
                rollup.roll_day(tx, day)
            done += 1
            bar.advance(task)
    rest = len(left) - done
    output.record(
        {"from": f"{first}", "to": f"{last}", "days": whole, "done": done, "left": rest}
        | {"resumed": len(left) < whole}
    )
    if rest:
        raise click.exceptions.Exit(output.DID_NOT_HOLD)


@group.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_file(file: Path) -> None:
    """Record earnings from Stripe's balance transactions, as CSV.

    FILE is a report or the Dashboard's export. The metadata of each payment says who earned it,
    `creator_id`, and what was sold, `source`. Imported again, nothing is recorded twice. Lines that
    make no sense are listed and left out, and if there are any, it exits with 1.
    """
    lines, done = list[dict[str, Any]](), Counter[str]()
    stderr = output.console(stderr=True)
    with stop_on_signals() as stop, Progress(console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(output.printable(file.name), total=None)

        def report(line: int, reason: object) -> None:
            bar.console.print(output.printable(f"line {line}: {reason}"))
            if len(lines) < MOST_LINES:
                lines.append({"line": line, "reason": str(reason)})

        for place, whole in csv_import.import_csv(output.parts().db, file, done, report):
            bar.update(task, completed=place, total=whole)
            if stop.is_set():
                break
    counts = {name: done[name] for name in ("read", "new", "known", "bad", "other")}
    left = 2 * counts["read"] - sum(counts.values())
    result = {"file": str(file), **counts, "left": left}
    if not output.answered({**result, "lines": lines}):
        output.details(result)
    if counts["bad"] or stop.is_set():
        raise click.exceptions.Exit(output.DID_NOT_HOLD)


def _reached(moment: datetime) -> date:
    try:
        return in_reach(moment.date())
    except ValueError as wrong:
        raise BadInput(str(wrong)) from None

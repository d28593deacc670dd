"""`earnings backfill|import`: the sums made anew, and the history from Stripe's own export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy import delete, insert, select

from app.platform.earnings import csv_import, rollup
from app.platform.earnings.rollup_models import DirtyDay
from app.switchyard.clock import in_reach
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    console,
    details,
    document,
    json_option,
    parts,
    printable,
)
from app.switchyard.commands.processes import stop_on_signals
from app.switchyard.errors import BadInput

MOST_DAYS = 3_653
"""Ten years."""
MOST_LINES = 1_000
"""Bad lines in the JSON document; all are told on standard error."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

group = Commands("earnings", help="What creators earned: its sums, and its history.")


@group.command("backfill")
@click.option("--from", "since", required=True, metavar="YYYY-MM-DD")
@click.option("--to", "until", required=True, metavar="YYYY-MM-DD", help="With this day.")
@click.option("--restart", is_flag=True, help="Begin anew where one was interrupted.")
@json_option
def backfill(since: str, until: str, restart: bool, as_json: bool) -> None:
    """Roll days up anew. Interrupted, the same command goes on where it stopped."""
    first, last = _day("--from", since), _day("--to", until)
    whole = (last - first).days + 1
    if not 1 <= whole <= MOST_DAYS:
        raise BadInput(f"--from {first} --to {last} is not 1 to {MOST_DAYS} days")
    # The range's own mark on its days that are not done yet: below those of the triggers.
    own, db = -(first.toordinal() << 22 | last.toordinal()), parts().db
    with db.begin() as tx:
        if restart:
            tx.execute(delete(DirtyDay).where(DirtyDay.mark == own))
        marked = select(DirtyDay.day).where(DirtyDay.mark == own).order_by(DirtyDay.day)
        left = list(tx.scalars(marked))
        if not left:
            left = [first + timedelta(days=n) for n in range(whole)]
            tx.execute(insert(DirtyDay), [{"day": day, "mark": own} for day in left])
    done, resumed = 0, len(left) < whole
    with stop_on_signals() as stop, _bar("days", whole) as bar:
        for day, after in zip(left, [*left[1:], None], strict=True):
            bar.update(bar.task_ids[0], completed=whole - len(left) + done)
            if stop.is_set():
                break
            with db.begin() as tx:
                rollup.roll_day(tx, day)
                if after is None or after.replace(day=1) != day.replace(day=1):
                    rollup.roll_months(tx, [day])
            done += 1
    told = {"from": since, "to": until, "days": whole, "done": done, "left": len(left) - done}
    _end({**told, "resumed": resumed}, as_json, ok=done == len(left))


@group.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--source", metavar="NAME", help="Of sales whose metadata names none.")
@json_option
def import_file(file: Path, source: str | None, as_json: bool) -> None:
    """Record what Stripe's balance transactions say, from a CSV report or the Dashboard's export.

    The creator is the payments' metadata `creator_id`, what was sold `source`. Imported again,
    nothing is recorded twice. Lines that make no sense are told and left out; 1 if there are any.
    """
    lines: list[dict[str, Any]] = []
    with stop_on_signals() as stop, _bar(file.name, None) as bar:

        def tell(line: int, reason: str) -> None:
            bar.console.print(printable(f"line {line}: {reason}"))
            if len(lines) < MOST_LINES:
                lines.append({"line": line, "reason": reason})

        def at(place: int, whole: int) -> bool:
            bar.update(bar.task_ids[0], completed=place, total=whole)
            return not stop.is_set()

        done = csv_import.import_csv(parts().db, file, tell, at, source)
    told = {"file": str(file), **vars(done), "left": done.left, "lines": lines}
    _end(told, as_json, ok=not done.bad and not stop.is_set())


def _day(option: str, text: str) -> date:
    try:
        return in_reach(date.fromisoformat(text if _DAY.fullmatch(text) else ""))
    except ValueError:
        raise BadInput(
            f"{option} must be a day of 2000 to 2199 as YYYY-MM-DD, not {text!r}"
        ) from None


def _end(told: dict[str, Any], as_json: bool, *, ok: bool) -> None:
    if as_json:
        document(told)
    else:
        details((name, value) for name, value in told.items() if name != "lines")
    if not ok:
        raise click.exceptions.Exit(DID_NOT_HOLD)


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[Progress]:
    stderr = console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    hidden = not stderr.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=stderr, disable=hidden) as bar:
        bar.add_task(printable(name), total=total)
        yield bar

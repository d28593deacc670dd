"""`statements make|show`: creators' months, made and kept, or looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from sqlalchemy.orm import Session

from app.platform.statements import csv, make
from app.platform.statements import document as statement
from app.platform.statements.document import major
from app.switchyard.commands.output import (
    DID_NOT_HOLD,
    Commands,
    document,
    json_option,
    parts,
    say,
    table,
)

group = Commands("statements", help="Creators' monthly statements.")
_FILE = click.Path(dir_okay=False, path_type=Path)


class _Here:
    """What making needs, outside of a run."""

    def __init__(self) -> None:
        self.made = parts()
        self.gateways = self.made.engine.gateways

    def now(self) -> datetime:
        return self.made.store.clock()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with self.made.db.session() as session:
            yield session


@group.command("make")
@click.argument("month", metavar="YYYY-MM")
@click.option("--creator", metavar="ID", help="Only this one's, whatever was in the month.")
@json_option
def make_month(month: str, creator: str | None, as_json: bool) -> None:
    """Make a month's statements and keep them; 1 where somebody's does not add up."""
    here, first, after = _Here(), statement.month_of(month), ""
    count, wrong = 0, list[str]()
    while after is not None:
        with here.transaction() as tx:
            if creator is not None:
                page: dict[str, Any] = {"made": 1, "wrong": [], "last": None}
                make.make_one(tx, here, first, creator)
            else:
                page = make.make_page(tx, here, first, after)
        count, wrong, after = count + page["made"], wrong + page["wrong"], page["last"]
    if as_json:
        document({"month": month, "made": count, "wrong": wrong})
    say(
        f"{count} statements made, {len(wrong)} do not add up{': ' if wrong else ''}"
        + ", ".join(wrong)
    )
    if wrong:
        raise click.exceptions.Exit(DID_NOT_HOLD)


@group.command("show")
@click.argument("creator_id", metavar="CREATOR")
@click.argument("month", metavar="YYYY-MM")
@click.option("--pdf", "pdf_file", type=_FILE, help="Write it as PDF.")
@click.option("--csv", "csv_file", type=_FILE, help="Write it as CSV.")
@json_option
def show(
    creator_id: str, month: str, pdf_file: Path | None, csv_file: Path | None, as_json: bool
) -> None:
    """A creator's statement, or what it would be if it were made now; nothing is kept."""
    here, first = _Here(), statement.month_of(month)
    with here.transaction() as tx:
        made = make.kept_or_now(tx, creator_id, first, here.gateways.platform)
    if csv_file is not None:
        csv_file.write_bytes(csv.made(made))
    if pdf_file is not None:
        from app.platform.statements import pdf  # what makes none needs no PDF library

        pdf_file.write_bytes(pdf.made(made))
    if as_json:
        document(made)
        return
    names = ("opening", "paid_out", "returned", "closing")
    table(
        ("currency", "earned", *names),
        (
            [one["currency"]]
            + [major(n, one["currency"]) for n in (one["earned"]["net"], *(one[k] for k in names))]
            for one in made["currencies"]
        ),
    )

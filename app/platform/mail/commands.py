"""`mails review`: what a person must know of."""

from __future__ import annotations

import click
from sqlalchemy import select

from app.platform.mail.models import UnknownMail as U
from app.switchyard.clock import iso
from app.switchyard.commands.output import Commands, listing, parts

group = Commands("mails", help="Mails, a run of send-email each.")


@group.command("review")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
def review(limit: int) -> None:
    """The newest mails that may be sent or not."""
    unknown = select(U.recipient, U.run_id, U.at, U.reason).order_by(U.run_id.desc()).limit(limit)
    with parts().db.autocommit() as connection:
        rows = [
            {"to": to, "run": run, "at": iso(at), "why": why}
            for to, run, at, why in connection.execute(unknown)
        ]
    listing(rows, ("to", "run", "at", "why"))

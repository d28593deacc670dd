"""`mails review|allow`: what a person must know of, and addresses that get mail again."""

from __future__ import annotations

import click
from sqlalchemy import delete, null, select

from app.platform.gateways.address import mail_address
from app.platform.mail.models import MailAddress as A
from app.platform.mail.models import UnknownMail as U
from app.switchyard.clock import iso
from app.switchyard.commands.output import Commands, answered, listing, parts, say
from app.switchyard.errors import BadInput

group = Commands("mails", help="Mails, a run of send-email each.")


@group.command("review")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
def review(limit: int) -> None:
    """The newest mails that may be sent or not, and the addresses that get no more mail."""
    unknown = select(U.recipient, U.run_id, U.at, U.reason).order_by(U.run_id.desc())
    blocked = select(A.address, null(), A.bounced_at, A.reason).order_by(A.bounced_at.desc())
    columns = ("to", "run", "at", "why", "standing")
    with parts().db.autocommit() as connection:
        rows = [
            dict(zip(columns, (to, run, iso(at), why, name), strict=True))
            for name, chosen in (("unknown", unknown), ("blocked", blocked))
            for to, run, at, why in connection.execute(chosen.limit(limit))
        ]
    listing(rows, columns)


@group.command("allow")
@click.argument("address")
def allow(address: str) -> None:
    """Send to an address again although mail to it bounced."""
    try:
        address = mail_address(address)
    except ValueError as wrong:
        raise BadInput(f"ADDRESS {wrong}") from None
    with parts().db.begin() as tx:
        lifted = tx.execute(delete(A).where(A.address == address.lower())).rowcount == 1
    answered({"address": address, "lifted": lifted})
    say(f"{address} gets mail again" if lifted else f"no mail to {address} was held back")

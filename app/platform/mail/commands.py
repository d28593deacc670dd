"""`mails list|show|allow`: what became of each mail."""

from __future__ import annotations

import json
from typing import Any

import click
from sqlalchemy import Select, case, func, literal, select

from app.platform.gateways.address import mail_address
from app.platform.mail import JOB, sending
from app.platform.mail.models import Mail as M
from app.platform.mail.models import MailStatus
from app.switchyard.clock import iso
from app.switchyard.commands.output import (
    Commands,
    document,
    json_option,
    listing,
    parts,
    record,
    say,
)
from app.switchyard.errors import BadInput
from app.switchyard.runs.models import RunRow as R

_TIMES = ("created_at", "due_at", "sent_at")

group = Commands("mails", help="Mails, a run of send-email each.")


class UnknownMail(BadInput):
    """No mail has this id."""

    status = 404
    title = "Unknown mail"


_QUEUED = literal(MailStatus.QUEUED.value)
# A run whose time has not come has no mail yet; one that was called off stays as it was.
_standing = case(
    (R.check_at.is_not(None), func.coalesce(M.status, _QUEUED)),
    else_=func.coalesce(func.nullif(M.status, _QUEUED), R.status),
)


def _chosen() -> Select[Any]:
    columns = (R.id, M.recipient, M.template, M.subject, _standing.label("status"), M.message_id)
    when = (R.created_at, func.coalesce(M.counts_at, R.due_at).label("due_at"), M.sent_at)
    error = func.coalesce(M.error, R.error).label("error")
    joined = select(*columns, *when, error, R.payload).outerjoin(M, M.run_id == R.id)
    return joined.where(R.job == JOB)


def _shown(row: Any) -> dict[str, Any]:
    asked = json.loads(row.payload)
    shown = {
        "id": row.id,
        "to": row.recipient or asked.get("to"),
        "template": row.template or asked.get("template"),
        "subject": row.subject,
        "status": row.status,
        "message_id": row.message_id,
    }
    return shown | {name: iso(getattr(row, name)) for name in _TIMES} | {"error": row.error}


@group.command("list")
@click.option("--status", type=click.Choice([str(status) for status in MailStatus]))
@click.option("--to", metavar="ADDRESS", help="Only mail to this address, once begun.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
def list_mails(status: str | None, to: str | None, limit: int, as_json: bool) -> None:
    """The newest first; those whose time has not come, as queued."""
    chosen = _chosen().order_by(R.id.desc()).limit(limit)
    if to is not None:
        chosen = chosen.where(M.recipient == to.lower())
    if status is not None:
        chosen = chosen.where(_standing == status)
    if status not in (None, MailStatus.QUEUED):
        chosen = chosen.where(M.status == status)  # which an index serves
    with parts().db.autocommit() as connection:
        found = [_shown(row) for row in connection.execute(chosen)]
    listing(found, ("id", "to", "template", "status", "due_at", "sent_at", "error"), as_json)


@group.command("show")
@click.argument("mail_id", metavar="ID")
@json_option
def show(mail_id: str, as_json: bool) -> None:
    """One mail; its id is its run's, so `runs show ID` says how it went, step by step."""
    with parts().db.autocommit() as connection:
        row = connection.execute(_chosen().where(R.id == mail_id)).one_or_none()
    if row is None:
        raise UnknownMail(f"no mail {mail_id!r}")
    record(_shown(row), as_json)


@group.command("allow")
@click.argument("address")
@json_option
def allow(address: str, as_json: bool) -> None:
    """Send to an address again although mail to it bounced."""
    try:
        mail_address(address)
    except ValueError as wrong:
        raise BadInput(f"ADDRESS {wrong}") from None
    with parts().db.session() as tx:
        lifted = sending.allow(tx, address)
    if as_json:
        document({"address": address, "lifted": lifted})
    say(f"{address} gets mail again" if lifted else f"no mail to {address} was held back")

"""Sending one mail, step by step: its record, then the mail itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from app.platform.gateways.smtp import MailBounced, MailRefused, MailUnavailable, MailUnknown
from app.platform.mail.models import Mail as M
from app.platform.mail.models import MailAddress, MailStatus, addresses, mails
from app.platform.mail.render import Letter
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.db import INSERT
from app.switchyard.errors import NonRetriable, NotDone, OutcomeUnknown


def admit(tx: Session, ctx: Context, to: str, template: str, subject: str) -> dict[str, Any]:
    """Put the mail on record, as a step: its `status`, queued, or suppressed with `why`."""
    now, address = ctx.now(), to.lower()
    blocked = tx.get(MailAddress, address)
    status, why = MailStatus.QUEUED, None
    if blocked is not None:
        status = MailStatus.SUPPRESSED
        why = f"mail to it bounced on {iso(blocked.bounced_at)}: {blocked.reason}"
    row: dict[str, Any] = {"run_id": ctx.run_id, "recipient": address, "status": status}
    row |= {"template": template, "subject": subject, "error": why}
    row |= {"created_at": now, "updated_at": now}
    tx.execute(insert(M), [row])
    return {"status": status.value, "why": why}


def send(tx: Session, ctx: Context, to: str, letter: Letter) -> dict[str, Any]:
    """Hand the mail to the server, as a step that is done at most once.

    Raises NotDone where it may be tried again, NonRetriable where the server or the settings say
    no, and OutcomeUnknown where the connection broke after it was handed over.
    """
    mailer = ctx.gateways.mailer
    if mailer is None:
        raise NonRetriable("SMTP_URL is not set: there is nothing to send mail with")
    message_id, now = f"<{ctx.run_id}@{mailer.domain}>", ctx.now()
    try:
        mailer.send(
            to=to,
            subject=letter.subject,
            text=letter.text,
            html=letter.html,
            message_id=message_id,
            now=now,
        )
    except MailUnavailable as failure:
        raise NotDone(str(failure)) from failure
    except MailRefused as no:
        _refused(ctx, to, no)
        raise NonRetriable(str(no)) from no
    except MailUnknown as unclear:
        raise OutcomeUnknown(str(unclear)) from unclear
    _note(tx, ctx.run_id, MailStatus.SENT, now, message_id=message_id, sent_at=now, error=None)
    return {"outcome": MailStatus.SENT.value, "messageId": message_id}


def unknown(tx: Session, ctx: Context, why: str) -> dict[str, Any]:
    """Put on record that nobody knows whether it was sent, as a step."""
    _note(tx, ctx.run_id, MailStatus.UNKNOWN, ctx.now(), error=why)
    return {"outcome": MailStatus.UNKNOWN.value, "why": why}


def failed(ctx: Context, why: str) -> None:
    """Put on record why it was not sent; where the server refused it, that stands already."""
    with ctx.transaction() as own:
        _note(own, ctx.run_id, MailStatus.FAILED, ctx.now(), only=MailStatus.QUEUED, error=why)


def allow(tx: Session, address: str) -> bool:
    """Let mail to an address that bounced be sent again; whether it was held back."""
    lifted = delete(addresses).where(addresses.c.address == address.lower())
    return tx.connection().execute(lifted).rowcount == 1


def _refused(ctx: Context, to: str, no: MailRefused) -> None:
    with ctx.transaction() as own:
        _note(own, ctx.run_id, MailStatus.REFUSED, ctx.now(), error=str(no))
        if isinstance(no, MailBounced):
            row = {"address": to.lower(), "bounced_at": ctx.now(), "reason": str(no)}
            connection = own.connection()
            bounced = INSERT[connection.dialect.name](addresses).values(row)
            connection.execute(bounced.on_conflict_do_nothing())


def _note(
    tx: Session,
    run_id: str,
    status: MailStatus,
    now: datetime,
    *,
    only: MailStatus | None = None,
    **change: Any,
) -> None:
    noted = update(mails).where(mails.c.run_id == run_id)
    if only is not None:
        noted = noted.where(mails.c.status == only)
    tx.connection().execute(noted.values(status=status, updated_at=now, **change))

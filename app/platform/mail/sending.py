"""Sending one mail, step by step: its place in its receiver's limit, then the mail itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.platform.gateways.smtp import MailBounced, MailRefused, MailUnavailable, MailUnknown
from app.platform.mail.models import Mail as M
from app.platform.mail.models import MailAddress, MailStatus, addresses, mails
from app.platform.mail.render import Letter
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.db import INSERT
from app.switchyard.errors import NonRetriable, NotDone, OutcomeUnknown

LIMIT = 10
"""How many mails one address gets in any WINDOW; the others wait their turn."""
WINDOW = timedelta(hours=1)


def admit(tx: Session, ctx: Context, to: str, template: str, subject: str) -> dict[str, Any]:
    """Put the mail on record and give it the next free place in its receiver's limit, as a step.

    Returns its `status` (queued, or suppressed and `why`) and how many seconds it has to `wait`.
    The ledger counts, not the cache: a mail waits in its run, holds no worker and is not lost.
    """
    now, address = ctx.now(), to.lower()
    connection = tx.connection()
    insert = INSERT[connection.dialect.name](addresses).values(address=address)
    # Written even where it is known, which locks it: of two mails at once one counts the other.
    known = connection.execute(
        insert.on_conflict_do_update(
            index_elements=["address"], set_={"address": insert.excluded.address}
        ).returning(addresses.c.bounced_at, addresses.c.reason)
    ).one()
    mailer = ctx.gateways.mailer
    row = {
        "run_id": ctx.run_id,
        "recipient": address,
        "template": template,
        "subject": subject,
        "message_id": None if mailer is None else f"<{ctx.run_id}@{mailer.domain}>",
        "created_at": now,
        "updated_at": now,
    }
    if known.bounced_at is not None:
        why = f"mail to it bounced on {iso(known.bounced_at)}: {known.reason}"
        row |= {"status": MailStatus.SUPPRESSED, "error": why}
        connection.execute(mails.insert(), row)
        return {"status": MailStatus.SUPPRESSED.value, "why": why, "wait": 0}
    tenth = connection.scalar(
        select(M.counts_at)
        .where(M.recipient == address, M.counts_at.is_not(None))
        .order_by(M.counts_at.desc())
        .offset(LIMIT - 1)
        .limit(1)
    )
    place = now if tenth is None else max(now, tenth + WINDOW)
    connection.execute(mails.insert(), row | {"status": MailStatus.QUEUED, "counts_at": place})
    return {"status": MailStatus.QUEUED.value, "wait": (place - now).total_seconds()}


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
    except MailUnavailable as away:
        raise NotDone(str(away)) from away
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
    lifted = tx.connection().execute(
        update(addresses)
        .where(addresses.c.address == address.lower(), MailAddress.bounced_at.is_not(None))
        .values(bounced_at=None, reason=None)
    )
    return lifted.rowcount == 1


def _refused(ctx: Context, to: str, no: MailRefused) -> None:
    with ctx.transaction() as own:
        _note(own, ctx.run_id, MailStatus.REFUSED, ctx.now(), error=str(no))
        if isinstance(no, MailBounced):
            bounced = update(addresses).where(addresses.c.address == to.lower())
            own.connection().execute(bounced.values(bounced_at=ctx.now(), reason=str(no)))


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

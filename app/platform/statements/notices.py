"""Creators are mailed a link to each new statement, in the transaction that keeps it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator as C
from app.platform.mail import mail_creator, mailing
from app.platform.statements.links import link
from app.platform.statements.models import Statement as S
from app.switchyard import runtime
from app.switchyard.signing import SecretKeyMissing

log = logging.getLogger(__name__)


def statements_made(tx: Session, statement_ids: Sequence[str]) -> None:
    """Mail the creators of these statements, just made, that they are there: each once."""
    settings = runtime.current().settings
    if not statement_ids or not mailing() or settings.backend_url is None:
        return
    wanted = select(S.id, S.month, C.name, C.email).join(C, C.id == S.creator_id)
    for row in tx.execute(wanted.where(S.id.in_(statement_ids)).order_by(S.id)):
        try:
            url = link(settings, row.id)
        except SecretKeyMissing as missing:
            log.warning("no statement is mailed: %s", missing)
            return
        data = {"month": f"{row.month:%Y-%m}", "link": url}
        mail_creator(tx, row.name, row.email, "statement-ready", data, f"statement:{row.id}")

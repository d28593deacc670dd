"""Links to statements' PDFs. Each is mailed to the creator and opens one statement only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.config import Settings, settings_of
from app.platform.earnings.models import Creator as C
from app.platform.mail import mail_creator, mailing
from app.platform.statements.models import Statement as S
from app.switchyard import runtime
from app.switchyard.errors import SecretKeyMissing

LINK_SECONDS = int(timedelta(days=7).total_seconds())
PATH = "/statements/"
_PURPOSE = "statement-link"
log = logging.getLogger(__name__)


def link(settings: Settings, statement_id: str) -> str | None:
    """The link to a statement, valid for LINK_SECONDS, or None without BACKEND_URL.

    Raises SecretKeyMissing.
    """
    if settings.backend_url is None:
        return None
    token = _signer(settings).dumps(statement_id)
    return f"{settings.backend_url.rstrip('/')}{PATH}{token}"


def mail_links(tx: Session, statement_ids: Sequence[str]) -> None:
    """Mail creators the links to new statements, once each, in the transaction that stores them."""
    settings = settings_of(runtime.current())
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


def opened(settings: Settings, token: str) -> str:
    """The id of the statement for a link's token.

    Raises itsdangerous.BadData where the token is invalid or too old, and SecretKeyMissing.
    """
    return str(_signer(settings).loads(token, max_age=LINK_SECONDS))


def _signer(settings: Settings) -> URLSafeTimedSerializer:
    if settings.signing_secret is None:
        raise SecretKeyMissing("SECRET_KEY is not set: links are signed with it")
    return URLSafeTimedSerializer(settings.signing_secret, salt=_PURPOSE)

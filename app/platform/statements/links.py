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
from app.platform.mail import mail_creator
from app.platform.statements.models import Statement as S
from app.switchyard import runtime
from app.switchyard.context import Context
from app.switchyard.errors import SecretKeyMissing

LINK_SECONDS = int(timedelta(days=7).total_seconds())
PATH = "/statements/"
_PURPOSE = "statement-link"
_LOCAL_SECRET = "switchyard-local"
log = logging.getLogger(__name__)


def mail_links(tx: Session, ctx: Context, statement_ids: Sequence[str]) -> None:
    """Mail creators the links to new statements, once each, in the transaction that stores them.

    Without BACKEND_URL there are no links.
    """
    if ctx.gateways.mailer is None:
        return
    settings = settings_of(runtime.current())
    if settings.backend_url is None:
        return
    try:
        signer = _signer(settings)
    except SecretKeyMissing as missing:
        log.warning("no statement is mailed: %s", missing)
        return
    url = f"{settings.backend_url.rstrip('/')}{PATH}"
    wanted = select(S.id, S.month, C.name, C.email).join(C, C.id == S.creator_id)
    for row in tx.execute(wanted.where(S.id.in_(statement_ids)).order_by(S.id)):
        data = {"month": f"{row.month:%Y-%m}", "link": url + signer.dumps(row.id)}
        mail_creator(tx, row.name, row.email, "statement-ready", data, f"statement:{row.id}")


def opened(settings: Settings, token: str) -> str:
    """The id of the statement for a link's token.

    Raises itsdangerous.BadData where the token is invalid or too old, and SecretKeyMissing.
    """
    return str(_signer(settings).loads(token, max_age=LINK_SECONDS))


def _signer(settings: Settings) -> URLSafeTimedSerializer:
    if settings.secret_key is not None:
        secret = settings.secret_key.get_secret_value()
    elif settings.local:  # only this machine's callers are served
        secret = _LOCAL_SECRET
    else:
        raise SecretKeyMissing("SECRET_KEY is not set: links are signed with it")
    return URLSafeTimedSerializer(secret, salt=_PURPOSE)

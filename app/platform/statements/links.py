"""A link to one statement's PDF: it opens that and nothing else, for a week."""

from __future__ import annotations

from datetime import timedelta

from itsdangerous import BadData

from app.switchyard.config import Settings
from app.switchyard.errors import Unauthorized
from app.switchyard.signing import signer

LINK_SECONDS = int(timedelta(days=7).total_seconds())
PATH = "/statements/"
_PURPOSE = "statement-link"


def link(settings: Settings, statement_id: str) -> str | None:
    """The link to a statement, good for LINK_SECONDS from now; None without BACKEND_URL.

    Raises SecretKeyMissing.
    """
    if settings.backend_url is None:
        return None
    token = signer(settings, _PURPOSE).dumps(statement_id)
    return f"{settings.backend_url.rstrip('/')}{PATH}{token}"


def opened(settings: Settings, token: str) -> str:
    """The id of the statement that the token opens. Raises Unauthorized, SecretKeyMissing."""
    try:
        return str(signer(settings, _PURPOSE).loads(token, max_age=LINK_SECONDS))
    except BadData:
        raise Unauthorized("the link opens nothing, or no longer") from None

"""A link to one statement's PDF: it opens that and nothing else, for a week."""

from __future__ import annotations

from datetime import timedelta

from itsdangerous import BadData

from app.platform.signing import signer
from app.switchyard.config import Settings

LINK_SECONDS = int(timedelta(days=7).total_seconds())
_PURPOSE = "statement-link"


def link(settings: Settings, creator_id: str, month: str) -> str | None:
    """The link to a creator's month (YYYY-MM), good for LINK_SECONDS from now; None without
    BACKEND_URL. Raises SecretKeyMissing."""
    if settings.backend_url is None:
        return None
    token = signer(settings, _PURPOSE).dumps([creator_id, month])
    path = f"/api/creators/{creator_id}/statements/{month}.pdf"
    return f"{settings.backend_url.rstrip('/')}{path}?token={token}"


def opens(settings: Settings, token: str, creator_id: str, month: str) -> bool:
    """Whether the token is that of this very statement, and fresh. Raises SecretKeyMissing."""
    try:
        meant = signer(settings, _PURPOSE).loads(token, max_age=LINK_SECONDS)
    except BadData:
        return False
    return bool(meant == [creator_id, month])

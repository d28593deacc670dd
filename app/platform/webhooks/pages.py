"""POST /api/webhooks/SOURCE: verified, kept once, and left to jobs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from flask import Blueprint, request
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.webhooks.inbox import posted, relay
from app.switchyard.errors import BadInput, Unauthorized
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime

log = logging.getLogger(__name__)
_NAME = re.compile(r"[!-~]{1,200}")


class SignatureRefused(Unauthorized):
    """The webhook is not its source's, or more than five minutes old; nothing was stored."""

    title = "Signature refused"


def blueprint(runtime: Runtime) -> Blueprint:
    """The endpoint of the sources of WEBHOOK_SOURCES."""
    pages = Blueprint("webhooks", __name__)

    @pages.post("/api/webhooks/<source>")
    def take(source: str) -> Response | dict[str, bool]:
        secrets = settings_of(runtime).webhook_sources.get(source)
        if secrets is None:
            return problem(404, "Unknown source", "WEBHOOK_SOURCES does not name it")
        body = posted()
        event = _verified(source, secrets, body)
        with runtime.db.session() as session:
            new = relay(session, source, event, body)
        return {"received": True, "new": new}

    return pages


def _verified(source: str, secrets: Iterable[SecretStr], body: bytes) -> str:
    """The source's name for the event, where any of `secrets` signed it and the body, as Standard
    Webhooks has it; Svix's headers are the same under other names.

    Raises SignatureRefused, and BadInput where the name is not printable ASCII.
    """
    given = {
        f"webhook-{part}": request.headers.get(f"webhook-{part}")
        or request.headers.get(f"svix-{part}", "")
        for part in ("id", "timestamp", "signature")
    }
    why = "no secret"
    for secret in secrets:
        try:
            Webhook(secret.get_secret_value()).verify(body, given, json_parse=False)
        except WebhookVerificationError as refused:
            why = str(refused)
        except ValueError:  # what the library does not expect of a header, or of a body
            why = "Malformed signature or body"
        else:
            break
    else:
        log.warning("webhook refused", extra={"source": source, "why": why})
        raise SignatureRefused(f"{why}: see Standard Webhooks")
    if not _NAME.fullmatch(given["webhook-id"]):
        raise BadInput("webhook-id: must be 1 to 200 printable characters")
    return given["webhook-id"]

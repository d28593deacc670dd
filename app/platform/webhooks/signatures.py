"""Whether a webhook is its source's, as Standard Webhooks has it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from werkzeug.datastructures import Headers

from app.switchyard.errors import BadInput, Unauthorized

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!-~]{1,200}")


class SignatureRefused(Unauthorized):
    """The webhook is not its source's, or more than five minutes old; nothing was stored."""

    title = "Signature refused"


def verified(source: str, secrets: Iterable[SecretStr], headers: Headers, body: bytes) -> str:
    """The source's name for the event, where any of `secrets` signed it and the body.

    Svix's headers are Standard Webhooks' under other names. Raises SignatureRefused, and BadInput
    where the name is not printable ASCII.
    """
    given = {
        f"webhook-{part}": headers.get(f"webhook-{part}") or headers.get(f"svix-{part}", "")
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

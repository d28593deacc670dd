"""Whether a webhook is its source's: HMAC-SHA256 over the body as it came."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from datetime import datetime

from werkzeug.datastructures import Headers

from app.platform.webhooks.config import Scheme, Source
from app.switchyard.errors import BadInput, Unauthorized

TOLERANCE_SECONDS = 300
"""How far a signed time may be off, either way."""
# A dot would let one id and timestamp be signed as another pair.
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_NAMED = re.compile(r"[!-~]{1,200}")
_TIME = re.compile(r"[0-9]{1,12}")


class SignatureRefused(Unauthorized):
    """The webhook is not its source's, or too old; nothing was stored."""

    title = "Signature refused"


def verified(sources: Sequence[Source], headers: Headers, body: bytes, now: datetime) -> str | None:
    """The provider's name for the event, or None where it gives none; by any one of `sources`.

    Raises SignatureRefused, and BadInput where a signed event's name is not printable ASCII.
    """
    for source in sources:
        if source.scheme == Scheme.STANDARD:
            if _is_standard(source, headers, body, now):
                return headers["webhook-id"]
        elif _is_signed(source, headers, body):
            if source.id_header is None:
                return None
            name = headers.get(source.id_header, "")
            if not _NAMED.fullmatch(name):
                raise BadInput(f"{source.id_header}: must be 1 to 200 printable characters")
            return name
    raise SignatureRefused("no valid signature of the body, or one that is too old")


def _is_standard(source: Source, headers: Headers, body: bytes, now: datetime) -> bool:
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""
    id_, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (_ID.fullmatch(id_) and _TIME.fullmatch(at)):
        return False
    if abs(now.timestamp() - int(at)) > TOLERANCE_SECONDS:
        return False
    digest = hmac.digest(source.key, f"{id_}.{at}.".encode() + body, "sha256")
    wanted = b"v1," + base64.b64encode(digest)
    given = headers.get(source.header, "").split(" ")
    return any(hmac.compare_digest(one.encode(), wanted) for one in given)


def _is_signed(source: Source, headers: Headers, body: bytes) -> bool:
    digest = hmac.digest(source.key, body, "sha256")
    given = headers.get(source.header, "").removeprefix("sha256=")
    if source.scheme == Scheme.HEX:
        return hmac.compare_digest(given.lower().encode(), digest.hex().encode())
    return hmac.compare_digest(given.encode(), base64.b64encode(digest))

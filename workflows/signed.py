"""One door for calls that others sign: who calls is known before anything reads what they sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flask import Request

from app.switchyard.errors import Unauthorized

MAX_HEADER = 4096
REFUSED = "the request does not bear a valid signature"


class Signature(NamedTuple):
    """What a signature's header says, by itself."""

    since: float
    until: float
    """Unix seconds between which it is good."""
    fits: Callable[[bytes], bool]
    """Whether it was made of these bytes; at the speed of C, as anybody can ask."""


def signed_body(
    request: Request,
    header: str,
    read: Callable[[str], Signature | None],
    *,
    now: float,
    limit: int,
) -> bytes:
    """The request's body as it was sent, if the one who may has signed it.

    From cheap to dear: the header, of the one form that `read` takes; its age; the body's size; its
    HMAC. Raises Unauthorized, which never says what was wrong: neither the log nor the answer is to
    help in forging one; and werkzeug's 413 where the body has more than `limit` bytes.
    """
    text = request.headers.get(header, "")
    signature = read(text) if text.isascii() and len(text) <= MAX_HEADER else None
    if signature is None or not signature.since <= now <= signature.until:
        raise Unauthorized(REFUSED)
    request.max_content_length = limit
    body = request.get_data()
    if not signature.fits(body):
        raise Unauthorized(REFUSED)
    return body

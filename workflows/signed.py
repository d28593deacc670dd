"""One door for calls that others sign: who calls is known before anything reads what they sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from flask import Request

from app.switchyard.errors import Unauthorized

MAX_HEADER = 4096
CHUNK = 64 * 1024
REFUSED = "the request does not bear a valid signature"


class Signature(NamedTuple):
    """What a signature's header says, by itself."""

    since: float
    until: float
    """Unix seconds between which it is good."""
    fits: Callable[[Iterable[bytes]], bool]
    """Whether it was made of a body in these pieces; at the speed of C, as anybody can ask."""


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
    sent = request.environ["wsgi.input"]
    if not getattr(sent, "seekable", lambda: False)():
        if not signature.fits([request.get_data()]):
            raise Unauthorized(REFUSED)
        return request.get_data()
    # Only what is signed is ever in memory as a whole.
    begin = sent.tell()
    if not signature.fits(iter(partial(request.stream.read, CHUNK), b"")):
        raise Unauthorized(REFUSED)
    sent.seek(begin)
    del request.stream
    return request.get_data()

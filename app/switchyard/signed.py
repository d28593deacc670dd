"""One door for calls that others sign: the caller is known before anything reads the call."""

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
    """What a signature's header states."""

    since: float
    until: float
    """The Unix seconds between which it is valid."""
    fits: Callable[[Iterable[bytes]], bool]
    """Whether it signs a body in these pieces. It runs at C speed, since anybody can send one."""


def signed_body(
    request: Request,
    header: str,
    read: Callable[[str], Signature | None],
    *,
    now: float,
    limit: int,
) -> bytes:
    """The request's raw body, if its signature is valid.

    Checks the cheapest things first: the header, in the one form that `read` accepts; its age; the
    body's size; its HMAC. Raises Unauthorized, which never says what was wrong, so that neither the
    log nor the answer helps a forger; and werkzeug's 413 for a body of more than `limit` bytes.
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
    # Only a signed body is ever in memory as a whole.
    begin = sent.tell()
    if not signature.fits(iter(partial(request.stream.read, CHUNK), b"")):
        raise Unauthorized(REFUSED)
    sent.seek(begin)
    del request.stream
    return request.get_data()

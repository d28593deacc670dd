"""One door for calls that others sign: the caller is known before anything reads the call."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from app.switchyard.errors import SwitchyardError, Unauthorized

if TYPE_CHECKING:  # a module of jobs must not load Flask
    from flask import Request

MAX_HEADER = 4096
CHUNK = 64 * 1024
REFUSED = "the request does not bear a valid signature"
NO_KEY = "no secret of ours made its signature"


class Signature(NamedTuple):
    """What a signature's header states."""

    since: float
    until: float
    """The Unix seconds between which it is valid."""
    fits: Callable[[Iterable[bytes]], bool]
    """Whether it signs a body in these pieces. It runs at C speed, since anybody can send one."""


def is_mac(
    keys: Iterable[bytes], given: Sequence[bytes], pieces: Iterable[bytes], prefix: bytes = b""
) -> bool:
    """Whether one of the `given` MACs is the HMAC-SHA256 of prefix and pieces under a key."""
    macs = [hmac.new(key, prefix, hashlib.sha256) for key in keys]
    for piece in pieces:
        for mac in macs:
            mac.update(piece)
    ours = [mac.digest() for mac in macs]
    return any(hmac.compare_digest(one, other) for one in ours for other in given)


def signed_body(
    request: Request,
    header: str,
    read: Callable[[str], Signature | None],
    *,
    now: float,
    limit: int,
    refused: Callable[[str], SwitchyardError] = lambda _why: Unauthorized(REFUSED),
) -> bytes:
    """The request's raw body, if its signature is valid.

    Checks the cheapest things first: the header, in the one form that `read` accepts; its age; the
    body's size; its HMAC. Raises what `refused` makes of the reason; by default that is an
    Unauthorized that says nothing of it, so that neither the log nor the answer helps a forger.
    Raises werkzeug's 413 for a body of more than `limit` bytes.
    """
    text = request.headers.get(header, "")
    signature = read(text) if text.isascii() and len(text) <= MAX_HEADER else None
    if signature is None:
        raise refused("the signature is missing or malformed")
    if not signature.since <= now <= signature.until:
        raise refused(f"it is too {'new' if now < signature.since else 'old'}")
    request.max_content_length = limit
    sent = request.environ["wsgi.input"]
    if not getattr(sent, "seekable", lambda: False)():
        if not signature.fits([request.get_data()]):
            raise refused(NO_KEY)
        return request.get_data()
    # Only a signed body is ever in memory as a whole.
    begin = sent.tell()
    if not signature.fits(iter(partial(request.stream.read, CHUNK), b"")):
        raise refused(NO_KEY)
    sent.seek(begin)
    del request.stream
    return request.get_data()

"""Checks QStash's signature on a request."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from flask import Request

from app.switchyard.clock import moment
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable, Unauthorized
from app.switchyard.signed import REFUSED, Signature, signed_body
from workflows.qstash import asking, make_client
from workflows.service import require_package

HEADER = "Upstash-Signature"
SKEW_SECONDS = 10
"""How far QStash's clock may be ahead of ours."""
ANEW_SECONDS = 60.0
"""How often QStash is asked for its keys at most: forged calls must not make us ask every time."""
# The check of signed calls looks at the times itself.
_OPTIONS: Any = {
    "require": ["iss", "sub", "exp", "nbf", "iat", "body"],
    **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat"), False),
}


class Signed(NamedTuple):
    """What QStash signed of a request. Nothing else in it is trusted."""

    text: str
    """The request's body."""
    issued_at: datetime
    """When it signed this delivery of the message."""
    expires_at: datetime
    token_id: str
    """The id of this one delivery. A retry has another."""


def signed(request: Request, settings: Settings, path: str, limit: int) -> Signed:
    """The signed parts of a request, if QStash signed this body for this app's `path`.

    Raises Unauthorized; BackendUnavailable where the keys must come from QStash and it does not
    answer, or where its package is not installed; and werkzeug's 413 for a body of more than
    `limit` bytes.
    """
    require_package("qstash")
    if settings.backend_url is None:
        raise Unauthorized(REFUSED)
    url = settings.backend_url.rstrip("/") + path
    times: list[datetime] = []

    def read(token: str) -> Signature | None:
        claims = _claims(token, url, signing_keys(settings))
        try:
            since = float(claims["nbf"]) - SKEW_SECONDS
            issued, expires = (moment(float(claims[name])) for name in ("iat", "exp"))
        except (KeyError, ValueError, TypeError, OverflowError):
            return None
        if issued is None or expires is None:
            return None
        times[:] = issued, expires
        return Signature(since, expires.timestamp(), partial(_is_digest, str(claims["body"])))

    body = signed_body(request, HEADER, read, now=time.time(), limit=limit)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Unauthorized(REFUSED) from None
    # Without the HMAC, which has several valid spellings.
    signed_part = request.headers[HEADER].rpartition(".")[0]
    issued_at, expires_at = times
    return Signed(text, issued_at, expires_at, hashlib.sha256(signed_part.encode()).hexdigest())


def _claims(token: str, url: str, keys: SigningKeys) -> dict[str, Any]:
    """The token's claims, or none where no key fits it."""
    import jwt  # an extra

    for key in keys:
        with suppress(jwt.PyJWTError):
            return jwt.decode(
                token, key, algorithms=["HS256"], issuer="Upstash", subject=url, options=_OPTIONS
            )
    return {}


def _is_digest(said: str, sent: Iterable[bytes]) -> bool:
    sha256 = hashlib.sha256()
    for piece in sent:
        sha256.update(piece)
    digest = base64.urlsafe_b64encode(sha256.digest())
    return hmac.compare_digest(said.rstrip("=").encode(errors="replace"), digest.rstrip(b"="))


class SigningKeys:
    """The current key and the next one, from the settings or else from QStash."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        keys = settings.qstash_current_signing_key, settings.qstash_next_signing_key
        self._keys: list[str] = []
        if keys[0] is not None:
            self._keys = [key.get_secret_value() for key in keys if key is not None]
        self._asks = not self._keys and settings.qstash_secret is not None
        self._ask_again = 0.0

    def __iter__(self) -> Iterator[str]:
        """The known keys, then those that QStash has now, which may have been rotated, if it is
        time to ask it. Raises BackendUnavailable where QStash cannot tell."""
        yield from self._keys
        if self._asks and self._monotonic() >= self._ask_again:
            self._ask_again = self._monotonic() + ANEW_SECONDS
            client = make_client(self._settings)
            with asking():
                found = client.signing_key.get()
            self._keys = [found.current, found.next]
            yield from self._keys
        elif self._asks and not self._keys:
            raise BackendUnavailable("qstash: its signing keys are not known yet")


_of_process: dict[tuple[object, ...], SigningKeys] = {}


def signing_keys(settings: Settings) -> SigningKeys:
    """This process's keys for the account in the settings."""
    account = (
        *(settings.qstash_url, settings.qstash_secret),
        *(settings.qstash_current_signing_key, settings.qstash_next_signing_key),
    )
    return _of_process.setdefault(account, SigningKeys(settings))

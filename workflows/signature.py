"""Who calls: QStash, by the signature on its request, or nobody who may."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from flask import Request

from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable, Unauthorized
from workflows.qstash import asked, make_client, require_package
from workflows.signed import REFUSED, Signature, signed_body

HEADER = "Upstash-Signature"
SKEW_SECONDS = 10
"""How far QStash's clock may be ahead of ours."""
ANEW_SECONDS = 60.0
"""How often QStash is asked at most: whoever sends forged calls must not make us ask for each."""
# The door looks at the times itself.
_OPTIONS: Any = {
    "require": ["iss", "sub", "exp", "nbf", "iat", "body"],
    **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat"), False),
}


class Signed(NamedTuple):
    """A request that QStash made; nothing else in it was signed."""

    text: str
    """Its body."""
    issued_at: datetime
    """When it signed this delivery of the message."""
    expires_at: datetime
    token_id: str
    """Of this delivery alone: a retry has another."""


def signed(request: Request, settings: Settings, path: str, limit: int) -> Signed:
    """The request's body, if QStash signed it for this app's `path` and the body is what it sent.

    Raises Unauthorized, BackendUnavailable where the keys are to be had from QStash and it does not
    answer, or its package is not installed, and werkzeug's 413 where the body has more than `limit`
    bytes.
    """
    require_package()
    if settings.backend_url is None:
        raise Unauthorized(REFUSED)
    url = settings.backend_url.rstrip("/") + path
    claims: dict[str, Any] = {}

    def read(token: str) -> Signature | None:
        nonlocal claims
        claims = _claims(token, url, signing_keys(settings))
        try:
            times = float(claims["nbf"]) - SKEW_SECONDS, float(claims["exp"])
        except (KeyError, ValueError, TypeError):
            return None
        return Signature(*times, fits=partial(_is_digest, str(claims["body"])))

    body = signed_body(request, HEADER, read, now=time.time(), limit=limit)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Unauthorized(REFUSED) from None
    issued, expires = (datetime.fromtimestamp(int(claims[name]), UTC) for name in ("iat", "exp"))
    # Without the HMAC, which can be spelled in several ways.
    signed_part = request.headers[HEADER].rpartition(".")[0]
    return Signed(text, issued, expires, hashlib.sha256(signed_part.encode()).hexdigest())


def _claims(token: str, url: str, keys: SigningKeys) -> dict[str, Any]:
    """What the token says; nothing where no key fits it."""
    return _of(token, url, keys.known()) or _of(token, url, keys.asked_anew() or ())


def _of(token: str, url: str, keys: Iterable[str]) -> dict[str, Any]:
    import jwt  # an extra

    for key in keys:
        with suppress(jwt.InvalidTokenError):
            return jwt.decode(
                token, key, algorithms=["HS256"], issuer="Upstash", subject=url, options=_OPTIONS
            )
    return {}


def _is_digest(said: str, sent: Iterable[bytes]) -> bool:
    sha256 = hashlib.sha256()
    for piece in sent:
        sha256.update(piece)
    digest = base64.urlsafe_b64encode(sha256.digest())
    return hmac.compare_digest(said.rstrip("=").encode(), digest.rstrip(b"="))


class SigningKeys:
    """The current key and the next one: as the settings name them, else as QStash says."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        current, after = settings.qstash_current_signing_key, settings.qstash_next_signing_key
        self._set = current is not None or settings.qstash_secret is None
        self._keys: tuple[str, str] | None = None
        if current is not None:
            self._keys = current.get_secret_value(), (after or current).get_secret_value()
        self._ask_again = 0.0

    def known(self) -> tuple[str, str]:
        """The keys. Raises Unauthorized where nobody can know them, BackendUnavailable where
        QStash was asked and could not say."""
        if self._keys is None:
            if self._set:
                raise Unauthorized(REFUSED)
            if (asked_now := self.asked_anew()) is None:
                raise BackendUnavailable("qstash: its signing keys are not known yet")
            return asked_now
        return self._keys

    def asked_anew(self) -> tuple[str, str] | None:
        """The keys as QStash has them now, if it is to be asked and it is time to: they may have
        been rotated. Raises BackendUnavailable."""
        if self._set or self._monotonic() < self._ask_again:
            return None
        self._ask_again = self._monotonic() + ANEW_SECONDS
        client = make_client(self._settings)
        found = asked(client.signing_key.get)
        self._keys = found.current, found.next
        return self._keys


_of_process: dict[tuple[object, ...], SigningKeys] = {}


def signing_keys(settings: Settings) -> SigningKeys:
    """The keys of this process for the account that the settings name."""
    account = (
        *(settings.qstash_url, settings.qstash_secret),
        *(settings.qstash_current_signing_key, settings.qstash_next_signing_key),
    )
    return _of_process.setdefault(account, SigningKeys(settings))

"""Who calls: QStash, by the signature on its request, or nobody who may."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Any

import jwt
from flask import Request
from qstash import Receiver
from qstash.errors import SignatureError

from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable, Unauthorized
from workflows.keys import signing_keys

SKEW_SECONDS = 10
"""How far QStash's clock may be ahead of ours."""
_REFUSED = "the request does not bear a valid signature"
_CLAIMS = ["iss", "sub", "exp", "nbf", "iat", "body"]


@dataclass(frozen=True, slots=True)
class Signed:
    """A request that QStash made."""

    text: str
    """Its body."""
    issued_at: int
    """When it signed this delivery of the message, Unix seconds."""
    token_id: str
    """Of this delivery alone: a retry has another."""


def signed(request: Request, settings: Settings, path: str, limit: int) -> Signed:
    """The request's body, if QStash signed it for this app's `path` and the body is what it sent.

    Checked by QStash's own Receiver; where a token is not valid *yet*, once more with a tolerance
    that the Receiver takes and does not use. Raises Unauthorized, which never says what was wrong,
    BackendUnavailable where the keys are to be had from QStash and it does not answer, and
    werkzeug's 413 where the body has more than `limit` bytes.
    """
    request.max_content_length = limit
    body = request.get_data(cache=False)
    token = request.headers.get("Upstash-Signature", "")
    try:
        text = body.decode()
        claims = _verified(token, text, settings, path)
        return Signed(text, int(claims["iat"]), str(claims.get("jti") or token[-64:]))
    except BackendUnavailable:
        raise
    except Exception:  # noqa: BLE001 - the client raises whatever its libraries do
        # Without a cause: neither the log nor the answer is to help in forging one.
        raise Unauthorized(_REFUSED) from None


def _verified(token: str, text: str, settings: Settings, path: str) -> dict[str, Any]:
    if settings.backend_url is None:
        raise Unauthorized(_REFUSED)
    url, keys = settings.backend_url.rstrip("/") + path, signing_keys(settings)
    try:
        return _fits(token, text, url, keys.known())
    except Unauthorized:
        rotated = keys.asked_anew()
        if rotated is None:
            raise
        return _fits(token, text, url, rotated)


def _fits(token: str, text: str, url: str, keys: tuple[str, str]) -> dict[str, Any]:
    try:
        Receiver(*keys).verify(signature=token, body=text, url=url)
    except SignatureError:
        return _early(token, text, url, keys)
    return dict(jwt.decode(token, options={"verify_signature": False}))


def _early(token: str, text: str, url: str, keys: tuple[str, str]) -> dict[str, Any]:
    """The same check of a token that is valid in SKEW_SECONDS at the latest. Raises."""
    for key in keys:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["HS256"],
                issuer="Upstash",
                leeway=SKEW_SECONDS,
                options={"require": _CLAIMS},
            )
        except jwt.InvalidTokenError:
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        said = str(claims["body"]).rstrip("=").encode()
        same = hmac.compare_digest(said, digest.rstrip(b"="))
        if same and claims["sub"] == url and claims["exp"] > time.time():
            return claims
    raise Unauthorized(_REFUSED)

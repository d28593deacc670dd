"""The keys of production mode: what a self-hosted Inngest server signs, and what it demands."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qs

import jcs  # type: ignore[import-untyped]

from app.local import shapes
from app.local.inngest.keys import Keys


class ProductionKeys(Keys):
    """Both keys; such a server takes the signing key in plain hex, without `signkey-…-`."""

    server_kind = "cloud"

    def __init__(self, event: str, signing: str) -> None:
        self._event = event
        self._key = signing.encode()
        self._bearer = f"Bearer {hashlib.sha256(bytes.fromhex(signing)).hexdigest()}"

    def admits_event(self, key: str) -> bool:
        return hmac.compare_digest(key.encode(), self._event.encode())

    def admits(self, authorization: str) -> bool:
        """The header is the sha256 of the decoded key."""
        return hmac.compare_digest(authorization.encode(), self._bearer.encode())

    def sign(self, body: bytes, now: float) -> tuple[bytes, dict[str, str]]:
        """HMAC over the bytes that are sent, which the real server sends by RFC 8785, and time."""
        canonical: bytes = jcs.canonicalize(shapes.loads(body)) if body else b""
        moment = str(int(now))
        return canonical, {"x-inngest-signature": f"t={moment}&s={self._mac(canonical, moment)}"}

    def signed(self, body: bytes, header: str) -> bool:
        """The SDK signs the body as sent."""
        parts = parse_qs(header)
        moment, given = parts.get("t", [""])[0], parts.get("s", [""])[0]
        return hmac.compare_digest(given.encode(), self._mac(body, moment).encode())

    def _mac(self, body: bytes, moment: str) -> str:
        return hmac.new(self._key, body + moment.encode(), hashlib.sha256).hexdigest()

"""The keys of production mode: what the server signs, and what it demands."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import parse_qs

import jcs  # type: ignore[import-untyped]

from app.local import shapes


@dataclass(frozen=True)
class Keys:
    """Both keys, or none for a dev server. Raises ValueError for anything else.

    A self-hosted server takes the signing key in plain hex, without the cloud's `signkey-…-`.
    """

    event: str | None = None
    signing: str | None = None

    def __post_init__(self) -> None:
        if (self.event is None) is not (self.signing is None):
            raise ValueError("give both keys, or none for a dev server")
        try:
            bytes.fromhex(self.signing or "")
        except ValueError:
            raise ValueError("the signing key must be plain hex of even length") from None

    @property
    def server_kind(self) -> str:
        """What the server calls itself."""
        return "dev" if self.signing is None else "cloud"

    def admits(self, authorization: str) -> bool:
        """Whether a request to the REST API has the right header: sha256 of the decoded key."""
        if self.signing is None:
            return True
        digest = hashlib.sha256(bytes.fromhex(self.signing)).hexdigest()
        return hmac.compare_digest(authorization.encode(), f"Bearer {digest}".encode())

    def canonical(self, body: bytes) -> bytes:
        """A request's body by RFC 8785: the real server signs the bytes it sends, which are so."""
        if self.signing is None or not body:
            return body
        text: bytes = jcs.canonicalize(shapes.loads(body))
        return text

    def signature(self, body: bytes, now: float) -> dict[str, str]:
        """The header that signs a request: HMAC over its canonical body and Unix seconds."""
        if self.signing is None:
            return {}
        moment = str(int(now))
        return {"x-inngest-signature": f"t={moment}&s={self._mac(body, moment)}"}

    def signed(self, body: bytes, header: str) -> bool:
        """Whether an SDK's answer carries a right signature; it signs the body as sent."""
        if self.signing is None:
            return True
        parts = parse_qs(header)
        moment, given = parts.get("t", [""])[0], parts.get("s", [""])[0]
        return hmac.compare_digest(given.encode(), self._mac(body, moment).encode())

    def _mac(self, body: bytes, moment: str) -> str:
        key = (self.signing or "").encode()
        return hmac.new(key, body + moment.encode(), hashlib.sha256).hexdigest()

"""The stand-in put together: what it keeps, its clock, and its signatures."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from flask import Flask

from app.local.qstash.delivery import Courier
from app.local.qstash.server import create_app
from app.local.qstash.store import Store
from app.local.standin import GOOD_DAYS, Days, StandIn

TOKEN_SECONDS = 300
TICK_SECONDS = 0.02


class QStashStandIn(StandIn):
    """A server that speaks QStash's protocol. What it knows is in `data`.

    `gap_scale` multiplies the gaps between attempts, `clock` gives Unix seconds.
    """

    def __init__(
        self,
        token: str,
        signing_key: str,
        data: str = ":memory:",
        *,
        gap_scale: float = 1.0,
        clock: Callable[[], float] = time.time,
        days: Days = GOOD_DAYS,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.store = Store(data, days, lambda: self.clock())
        self.token = token
        self.signing_key = signing_key
        self._courier = Courier(self.store, self.sign, gap_scale)
        self._days = days

    def app(self) -> Flask:
        return create_app(self.store, self.token, lambda: self.signing_key, self._days)

    def work(self) -> Sequence[Callable[[], None]]:
        return (self._keep_time,)

    def close(self) -> None:
        """Stop delivering; what was under way is delivered again by whoever serves `data` next."""
        self._courier.close()
        self.store.close()

    def sign(self, url: str, body: bytes, **claims: Any) -> str:
        """The signature of a delivery; `claims` stand in for its own."""
        now = int(self.clock())
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
        own = {"iss": "Upstash", "sub": url, "exp": now + TOKEN_SECONDS, "nbf": now, "iat": now}
        own |= {"jti": f"jwt_{uuid.uuid4().hex}", "body": digest}
        return jwt.encode({**own, **claims}, self.signing_key, algorithm="HS256")

    def _keep_time(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            now = self.clock()
            self.store.tick(now)
            self._courier.send_due(now)

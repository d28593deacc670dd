"""Delivering events, signed as Stripe signs, until answered 2xx."""

import hmac
import json
import threading
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import requests

from app.local.loopback import is_loopback
from app.local.stripe.money import settle
from app.local.stripe.store import Store

POLL_SECONDS = 0.05
POST_SECONDS = 10
FIRST_GAP_SECONDS, LONGEST_GAP_SECONDS = 0.25, 30.0
"""Between two tries; doubled at each. Stripe gives up after three days."""


def signature(body: str, secret: str, at: int) -> str:
    """The `Stripe-Signature` header (https://docs.stripe.com/webhooks#verify-manually)."""
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), "sha256").hexdigest()
    return f"t={at},v1={digest}"


class Sender:
    """Sends events one at a time, in their order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._url = self._secret = ""
        self._queue: list[tuple[float, int, int, dict[str, Any]]] = []
        """When to send, which turn it has, how often it was tried, and the event: a heap."""
        self._turns = count()
        self._seen = 0

    def aim(self, url: str, secret: str, events: Sequence[str] = ("*",)) -> None:
        """Have events from now on delivered to `url`, which is on this machine.

        They are signed with `secret` (`whsec_…`) at each try, by the stand-in's clock. `events`
        are the types wanted, as globs. Raises ValueError.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not is_loopback(parts.hostname):
            raise ValueError("a webhook's URL is http:// on loopback")
        if not secret:
            raise ValueError("events are signed, and STRIPE_WEBHOOK_SECRET is not set")
        self._url, self._secret = url, secret
        self._store.listened_to = tuple(events)

    def run(self, stopped: threading.Event) -> None:
        """Deliver until `stopped`."""
        with requests.Session() as session:
            session.trust_env = False  # no proxy is asked for what stays on this machine
            while not stopped.wait(POLL_SECONDS):
                if not self._url:
                    continue
                settle(self._store)
                for place, text in self._store.undelivered(self._seen):
                    self._seen = place
                    self._add(0, 0, json.loads(text))
                while self._queue and self._queue[0][0] <= time.monotonic():
                    *_, tries, event = heappop(self._queue)
                    delivered = self._deliver(session, event)
                    if stopped.is_set():
                        return
                    if delivered:
                        self._store.put(event.get("account", ""), event | {"pending_webhooks": 0})
                    else:
                        gap = min(FIRST_GAP_SECONDS * 2**tries, LONGEST_GAP_SECONDS)
                        self._add(gap, tries + 1, event)

    def _add(self, wait: float, tries: int, event: dict[str, Any]) -> None:
        heappush(self._queue, (time.monotonic() + wait, next(self._turns), tries, event))

    def _deliver(self, session: requests.Session, event: dict[str, Any]) -> bool:
        body = json.dumps(event, indent=2)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(body, self._secret, self._store.now()),
        }
        try:
            answer = session.post(
                self._url, body, headers=headers, timeout=POST_SECONDS, allow_redirects=False
            )
        except requests.RequestException:
            return False
        return 200 <= answer.status_code < 300

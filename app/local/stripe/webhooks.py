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
from app.local.stripe.errors import Luck, Target
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

    def __init__(self, store: Store, luck: Luck) -> None:
        self._store = store
        self._luck = luck
        self._endpoint = ("", "")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._queue: list[tuple[float, int, int, dict[str, Any]]] = []
        """When to send, which turn it has, how often it was tried, and the event: a heap."""
        self._turns = count()
        self._seen = 0

    def aim(self, url: str, secret: str, events: Sequence[str] = ("*",)) -> None:
        """Have events from now on delivered to `url`, which is on this machine (else ValueError).

        They are signed with `secret` (`whsec_…`) at each try, by the stand-in's clock. `events`
        are the types wanted, as globs.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not is_loopback(parts.hostname):
            raise ValueError("a webhook's URL is http:// on loopback")
        self._endpoint = (url, secret)
        self._store.listened_to = tuple(events)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the delivery under way, and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy is asked for what stays on this machine
            while not self._stop.wait(POLL_SECONDS):
                settle(self._store)
                self._collect()
                while self._queue and self._queue[0][0] <= time.monotonic():
                    if self._stop.is_set():
                        return
                    _, turn, tries, event = heappop(self._queue)
                    if self._deliver(session, event):
                        with self._store.transaction():
                            body = event | {"pending_webhooks": 0}
                            self._store.put(event.get("account", ""), body)
                    else:
                        gap = min(FIRST_GAP_SECONDS * 2**tries, LONGEST_GAP_SECONDS)
                        again = (time.monotonic() + gap, turn, tries + 1, event)
                        heappush(self._queue, again)

    def _collect(self) -> None:
        for place, text in self._store.undelivered(self._seen):
            self._seen = place
            event = json.loads(text)
            paid = event.get("account") or event["data"]["object"].get("destination")
            for delay in self._luck.delays(Target("POST", event["type"], paid, event["id"])):
                due = time.monotonic() + delay
                heappush(self._queue, (due, next(self._turns), 0, event))

    def _deliver(self, session: requests.Session, event: dict[str, Any]) -> bool:
        url, secret = self._endpoint
        body = json.dumps(event, indent=2)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(body, secret, self._store.now()),
        }
        try:
            answer = session.post(
                url, body, headers=headers, timeout=POST_SECONDS, allow_redirects=False
            )
        except requests.RequestException:
            return False
        return 200 <= answer.status_code < 300

"""Delivering events, signed as Stripe signs, until answered 2xx."""

import hmac
import json
import threading
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests

from app.local.loopback import is_loopback
from app.local.stripe.luck import Luck, Target
from app.local.stripe.payouts import settle
from app.local.stripe.store import Store

POLL_SECONDS = 0.05
POST_SECONDS = 10
FIRST_GAP_SECONDS, LONGEST_GAP_SECONDS = 0.25, 30.0
"""Between two tries; doubled at each. Stripe gives up after three days."""


def signature(body: str, secret: str, at: int) -> str:
    """The `Stripe-Signature` header (https://docs.stripe.com/webhooks#verify-manually)."""
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), "sha256").hexdigest()
    return f"t={at},v1={digest}"


class _Delivery(NamedTuple):
    due: float
    n: int
    tries: int
    event: dict[str, Any]


class Sender:
    """Sends events one at a time, in their order."""

    def __init__(self, store: Store, luck: Luck) -> None:
        self._store = store
        self._luck = luck
        self._endpoint = ("", "")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._queue: list[_Delivery] = []
        self._numbers = count()
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
                while self._queue and self._queue[0].due <= time.monotonic():
                    if self._stop.is_set():
                        return
                    self._send(session, heappop(self._queue))

    def _collect(self) -> None:
        for place, text in self._store.undelivered(self._seen):
            self._seen = place
            event = json.loads(text)
            paid = event.get("account") or event["data"]["object"].get("destination")
            target = Target("POST", event["type"], paid, event["id"])
            for delay in self._luck.delays(target):
                due = time.monotonic() + delay
                heappush(self._queue, _Delivery(due, next(self._numbers), 0, event))

    def _send(self, session: requests.Session, it: _Delivery) -> None:
        url, secret = self._endpoint
        body = json.dumps(it.event, indent=2)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(body, secret, self._store.now()),
        }
        try:
            answer = session.post(
                url, body, headers=headers, timeout=POST_SECONDS, allow_redirects=False
            )
            delivered = answer.ok and answer.status_code < 300
        except requests.RequestException:
            delivered = False
        if delivered:
            with self._store.transaction():
                self._store.put(it.event.get("account", ""), it.event | {"pending_webhooks": 0})
        else:
            gap = min(FIRST_GAP_SECONDS * 2**it.tries, LONGEST_GAP_SECONDS)
            heappush(self._queue, it._replace(due=time.monotonic() + gap, tries=it.tries + 1))

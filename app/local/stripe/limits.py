"""How many calls a second are let in, as Stripe limits them (https://docs.stripe.com/rate-limits)."""

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from app.local.stripe.errors import refusal

WINDOW_SECONDS = 1.0


class Limiter:
    """At most so many calls within any one second, in all and to one endpoint; None: no limit.

    A call that is refused takes no place. `timer` gives seconds.
    """

    def __init__(self, per_second: int | None, timer: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._timer = timer
        self.start(per_second, None)

    def start(self, per_second: int | None, per_endpoint: int | None) -> None:
        """Limits from now on; what was counted is forgotten."""
        with self._lock:
            self._limits = (per_second, per_endpoint)
            self._recent: deque[tuple[float, str]] = deque()
            self._by_endpoint: Counter[str] = Counter()
            self._admitted = self._refused = self._busiest = 0

    def admit(self, endpoint: str) -> None:
        """Counts a call to `endpoint` in. Raises ApiError (429)."""
        with self._lock:
            now = self._timer()
            while self._recent and self._recent[0][0] <= now - WINDOW_SECONDS:
                self._by_endpoint[self._recent.popleft()[1]] -= 1
            for limit, calls, reason in zip(
                self._limits,
                (len(self._recent), self._by_endpoint[endpoint]),
                ("global-rate", "endpoint-rate"),
                strict=True,
            ):
                if limit is not None and calls >= limit:
                    self._refused += 1
                    headers = {"Stripe-Rate-Limited-Reason": reason}
                    raise refusal("rate_limit", 429, headers=headers)
            self._recent.append((now, endpoint))
            self._by_endpoint[endpoint] += 1
            self._admitted += 1
            self._busiest = max(self._busiest, len(self._recent))

    def told(self) -> dict[str, Any]:
        """The limits, and since they began what was let in, refused, and let in within a second."""
        with self._lock:
            per_second, per_endpoint = self._limits
            return {
                "per_second": per_second,
                "per_endpoint": per_endpoint,
                "admitted": self._admitted,
                "refused": self._refused,
                "busiest_second": self._busiest,
            }

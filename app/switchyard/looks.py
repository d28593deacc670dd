"""The last known state of the parts that an app depends on, for pages that must not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from app.switchyard.errors import SwitchyardError
from app.switchyard.text import reason

WAIT_SECONDS = 0.2
"""How long a request waits for an answer."""
FRESH_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""After this, the last state of a part that does not answer no longer counts."""
NO_ANSWER_YET = "unavailable: no answer yet"
LOST_SECONDS = 60.0
"""After this, the thread that looks is considered lost, as after a fork."""


class Looks:
    """The last known state of each part. A request has every part looked at again, by one thread
    each at a time, and waits for WAIT_SECONDS at most. A part that does not answer keeps its state.
    """

    def __init__(self, parts: Mapping[str, Callable[[], object]]) -> None:
        self._parts = parts
        self._seen: dict[str, str] = {}
        self._begun: dict[str, float] = {}
        """Since when each part is being looked at."""
        self._ended = dict.fromkeys(parts, float("-inf"))
        self._change = threading.Condition()

    def up(self) -> dict[str, bool]:
        """Whether each part was last seen up, without a wait. None is up before it answers."""
        parts = self.seen(0.0)
        return {name: parts[name] == "ok" for name in parts if name in self._seen}

    def seen(self, wait_seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """The state of each part: `ok`, or `unavailable:` and why."""
        now = time.monotonic()
        with self._change:
            for name in self._parts:
                if now - self._begun.get(name, self._ended[name]) >= (
                    LOST_SECONDS if name in self._begun else FRESH_SECONDS
                ):
                    self._begun[name] = now
                    threading.Thread(target=self._look, args=(name, now), daemon=True).start()
            # However many requests ask during a look, they wait for it only once.
            latest = max(self._begun.values(), default=now)
            self._change.wait_for(lambda: not self._begun, latest + wait_seconds - now)
            return {name: self._state(name) for name in self._parts}

    def _state(self, name: str) -> str:
        asked = time.monotonic() - self._begun.get(name, time.monotonic())
        if name not in self._seen or asked > SILENT_SECONDS:
            return NO_ANSWER_YET
        return self._seen[name]

    def _look(self, name: str, begun: float) -> None:
        try:
            self._parts[name]()
            seen = "ok"
        except SwitchyardError as failure:
            seen = f"unavailable: {failure}"
        except Exception as failure:  # noqa: BLE001 - any error of a part is the answer
            seen = f"unavailable: {reason(failure)}"
        with self._change:
            if self._begun.get(name) == begun:
                del self._begun[name]
            self._seen[name], self._ended[name] = seen, time.monotonic()
            self._change.notify_all()

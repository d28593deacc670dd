"""Liveness and readiness; the metrics beside them are in metrics.py."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from app.switchyard import nonces
from app.switchyard.clock import utcnow
from app.switchyard.errors import SwitchyardError
from app.switchyard.http import register_problems
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason

WAIT_SECONDS = 0.2
"""How long an answer may be waited for."""
FRESH_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""After this a part that does not answer is no longer taken to be what it was."""
NO_ANSWER_YET = "unavailable: no answer yet"
LOST_SECONDS = 60.0
"""After this so is the thread that looks: a fork leaves it behind."""


def blueprint(runtime: Runtime) -> Blueprint:
    """/healthz, /readyz and /metrics."""
    pages = Blueprint("switchyard_health", __name__)
    register_problems(pages)
    written = f"ready:{secrets.token_hex(16)}"  # each process has a row of its own to lock

    def database() -> None:
        nonces.renew(runtime.db, written, utcnow() + timedelta(hours=1))

    backends = runtime.store.backends
    parts: dict[str, Callable[[], object]] = {"database": database}
    looks = Looks(parts | {name: backends[name].ping for name in backends.names()})

    @pages.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @pages.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        parts = looks.seen()
        # A queue that is unavailable is what the ledger is for: only the database decides.
        ready = parts["database"] == "ok"
        return {"ready": ready, "parts": parts}, 200 if ready else 503

    @pages.get("/metrics")
    def scraped() -> Response:
        from app.switchyard import metrics  # loaded in the processes that are scraped alone

        return metrics.answer(runtime, looks.up)

    return pages


class Looks:
    """What each part was last seen to be. Whoever asks has it looked at anew, each by one thread at
    a time, and waits WAIT_SECONDS at most: what does not answer is what it was before."""

    def __init__(self, parts: Mapping[str, Callable[[], object]]) -> None:
        self._parts = parts
        self._seen: dict[str, str] = {}
        self._begun: dict[str, float] = {}
        """Since when a part is being looked at."""
        self._ended = dict.fromkeys(parts, float("-inf"))
        self._change = threading.Condition()

    def up(self) -> dict[str, bool]:
        """Whether each part was last seen to be there, without a wait; none before it answered."""
        parts = self.seen(0.0)
        return {name: parts[name] == "ok" for name in parts if name in self._seen}

    def seen(self, wait_seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """Each part: `ok`, or `unavailable:` and why."""
        now = time.monotonic()
        with self._change:
            for name in self._parts:
                if now - self._begun.get(name, self._ended[name]) >= (
                    LOST_SECONDS if name in self._begun else FRESH_SECONDS
                ):
                    self._begun[name] = now
                    threading.Thread(target=self._look, args=(name, now), daemon=True).start()
            # Each look is waited for once, however many ask while it lasts.
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
        except Exception as failure:  # noqa: BLE001 - whatever is wrong with a part is the answer
            seen = f"unavailable: {reason(failure)}"
        with self._change:
            if self._begun.get(name) == begun:
                del self._begun[name]
            self._seen[name], self._ended[name] = seen, time.monotonic()
            self._change.notify_all()

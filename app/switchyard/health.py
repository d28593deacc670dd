"""Liveness and readiness. The metrics are in metrics.py."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from app.switchyard import nonces, postgres
from app.switchyard.clock import utcnow
from app.switchyard.errors import SwitchyardError
from app.switchyard.http import register_problems
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason

WAIT_SECONDS = 0.2
"""How long a request waits for an answer."""
FRESH_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""After this, the last state of a part that does not answer no longer counts."""
NO_ANSWER_YET = "unavailable: no answer yet"
LOST_SECONDS = 60.0
"""After this, the thread that looks is considered lost, as after a fork."""


DATABASE = "database"
"""The part that decides: the ledger covers for a queue that is unavailable."""


def looks_at(runtime: Runtime) -> Looks:
    """The looks at the database and at each backend that the app uses."""
    written = f"ready:{secrets.token_hex(16)}"  # each process locks a row of its own

    def database() -> None:
        nonces.renew(runtime.db, written, utcnow() + timedelta(hours=1))
        if not runtime.db.is_sqlite:
            with runtime.db.begin() as connection:
                postgres.require_room(connection)

    backends = runtime.store.backends
    used = {name: backends[name].ping for name in filter(runtime.uses, backends)}
    return Looks({DATABASE: database, **used})


def blueprint(runtime: Runtime, looks: Looks) -> Blueprint:
    """/healthz, /readyz and /metrics."""
    pages = Blueprint("switchyard_health", __name__)
    register_problems(pages)

    @pages.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @pages.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        parts = looks.seen()
        ready = parts[DATABASE] == "ok"
        return {"ready": ready, "parts": parts}, 200 if ready else 503

    @pages.get("/metrics")
    def scraped() -> Response:
        from app.switchyard import metrics  # loaded in the processes that are scraped alone

        return metrics.answer(runtime, looks.up)

    return pages


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

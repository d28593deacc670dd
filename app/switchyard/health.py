"""Liveness and readiness. The metrics are in metrics.py."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from app.switchyard import nonces, postgres
from app.switchyard.clock import utcnow
from app.switchyard.http import register_problems
from app.switchyard.looks import Looks
from app.switchyard.runtime import Runtime

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

"""Liveness, readiness and metrics."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from app.switchyard import nonces
from app.switchyard.clock import utcnow
from app.switchyard.cutover.shadow import COUNTS
from app.switchyard.cutover.stages import GUARDRAIL, StageChange
from app.switchyard.errors import SwitchyardError
from app.switchyard.http import register_problems
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason

WAIT_SECONDS = 0.2
"""How long an answer may be waited for."""
FRESH_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""After this a part that does not answer is no longer taken to be what it was."""
LOST_SECONDS = 60.0
"""After this so is the thread that looks: a fork leaves it behind."""

_OPENED = (
    select(R.job, R.backend, R.status, func.count())
    # A range, so that the index of open runs serves.
    .where(R.check_at > datetime(2000, 1, 1, tzinfo=UTC))
    .group_by(R.job, R.backend, R.status)
    .order_by(R.job, R.backend, R.status)
)
_C = StageChange
_STEPS = select(_C.job, func.count()).where(_C.by == GUARDRAIL).group_by(_C.job).order_by(_C.job)


def blueprint(runtime: Runtime) -> Blueprint:
    """/healthz, /readyz and /metrics."""
    pages = Blueprint("switchyard_health", __name__)
    register_problems(pages)
    registry = CollectorRegistry()
    registry.register(Ledger(runtime))
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
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

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

    def seen(self) -> dict[str, str]:
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
            self._change.wait_for(lambda: not self._begun, latest + WAIT_SECONDS - now)
            return {name: self._state(name) for name in self._parts}

    def _state(self, name: str) -> str:
        asked = time.monotonic() - self._begun.get(name, time.monotonic())
        if name not in self._seen or asked > SILENT_SECONDS:
            return "unavailable: no answer yet"
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


class Ledger(Collector):
    """What the ledger says at the moment of a scrape: no process keeps a count of its own."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        """Open runs, the guardrail's steps, and shadows. Raises SQLAlchemy's errors."""
        with self._runtime.db.autocommit() as connection:
            opened = connection.execute(_OPENED).all()
            steps = connection.execute(_STEPS).all()
            compared = connection.execute(COUNTS).all()
        runs = GaugeMetricFamily(
            "switchyard_open_runs",
            "Runs that are not done with.",
            labels=["job", "backend", "status"],
        )
        for job, backend, status, count in opened:
            runs.add_metric([job, backend, status], count)
        yield runs
        stepped = CounterMetricFamily(
            "switchyard_guardrail_steps",
            "Steps back that jobs made by themselves.",
            labels=["job"],
        )
        for job, count in steps:
            stepped.add_metric([job], count)
        yield stepped
        shadows = GaugeMetricFamily(
            "switchyard_shadow_runs", "Shadows by what became of them.", labels=["job", "kind"]
        )
        for job, kind, count, _ in compared:
            shadows.add_metric([job, kind], count)
        yield shadows

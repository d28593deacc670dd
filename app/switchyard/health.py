"""Liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import func, literal, select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.cutover.shadow import COUNTS
from app.switchyard.cutover.stages import GUARDRAIL, StageChange
from app.switchyard.errors import BackendUnavailable
from app.switchyard.http import register_problems
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime

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

    @pages.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @pages.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        parts = {"database": _database(runtime)}
        for name in runtime.store.backends.names():
            parts[name] = _backend(runtime, name)
        # A queue that is unavailable is what the ledger is for: only the database decides.
        return {"ready": parts["database"] == "ok", "parts": parts}, (
            200 if parts["database"] == "ok" else 503
        )

    @pages.get("/metrics")
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    return pages


def _database(runtime: Runtime) -> str:
    try:
        with runtime.db.autocommit() as connection:
            connection.execute(select(literal(1)).select_from(R).limit(1))
    except SQLAlchemyError as failure:
        return f"unavailable: {type(failure).__name__}"
    return "ok"


def _backend(runtime: Runtime, name: str) -> str:
    try:
        runtime.store.backends[name].ping()
    except BackendUnavailable as failure:
        return f"unavailable: {failure}"
    return "ok"


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

"""Liveness, readiness and metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import func, literal, select
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.cutover.shadow import COUNTS
from app.switchyard.cutover.stages import GUARDRAIL, StageChange
from app.switchyard.errors import BackendUnavailable
from app.switchyard.http import register_problems
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime

_EVER = datetime(2000, 1, 1, tzinfo=UTC)


def blueprint(made: Runtime) -> Blueprint:
    """/healthz, /readyz and /metrics."""
    pages = Blueprint("health", __name__)
    register_problems(pages)

    @pages.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @pages.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        parts = {"database": _database(made)}
        for name in made.store.backends.names():
            parts[name] = _backend(made, name)
        # A queue that is away is what the ledger is for: only the database decides.
        return {"ready": parts["database"] == "ok", "parts": parts}, (
            200 if parts["database"] == "ok" else 503
        )

    @pages.get("/metrics")
    def metrics() -> Response:
        return Response(_metrics(made), content_type="text/plain; version=0.0.4")

    return pages


def _database(made: Runtime) -> str:
    try:
        with made.db.autocommit() as connection:
            connection.execute(select(literal(1)).select_from(R).limit(1))
    except SQLAlchemyError as failure:
        return f"unavailable: {type(failure).__name__}"
    return "ok"


def _backend(made: Runtime, name: str) -> str:
    try:
        made.store.backends[name].ping()
    except BackendUnavailable as failure:
        return f"unavailable: {failure}"
    return "ok"


def _metrics(made: Runtime) -> str:
    chosen = (
        select(R.job, R.backend, R.status, func.count())
        .where(R.check_at > _EVER)  # a range, so that the index of open runs serves
        .group_by(R.job, R.backend, R.status)
        .order_by(R.job, R.backend, R.status)
    )
    C = StageChange
    stepped = select(C.job, func.count()).where(C.by == GUARDRAIL).group_by(C.job).order_by(C.job)
    with made.db.autocommit() as connection:
        rows = connection.execute(chosen).all()
        steps = connection.execute(stepped).all()
        compared = connection.execute(COUNTS).all()
    lines = [
        "# HELP switchyard_open_runs Runs that are not done with.",
        "# TYPE switchyard_open_runs gauge",
    ]
    lines += [
        f'switchyard_open_runs{{job="{job}",backend="{backend}",status="{status}"}} {count}'
        for job, backend, status, count in rows
    ]
    lines += [
        "# HELP switchyard_guardrail_steps_total Steps back that jobs made by themselves.",
        "# TYPE switchyard_guardrail_steps_total counter",
    ]
    lines += [f'switchyard_guardrail_steps_total{{job="{job}"}} {count}' for job, count in steps]
    lines += [
        "# HELP switchyard_shadow_runs Shadows by what became of them.",
        "# TYPE switchyard_shadow_runs gauge",
    ]
    lines += [
        f'switchyard_shadow_runs{{job="{job}",kind="{kind}"}} {count}'
        for job, kind, count, _ in compared
    ]
    return "\n".join(lines) + "\n"

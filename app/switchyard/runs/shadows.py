"""Runs that shadow others: written with the live run, and sent by the relay, not by its caller."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.runs.create import NewRun, new_run, write_runs
from app.switchyard.runs.run import Run
from flags import Decision, Reason, Stage

JOB = "shadow-compare"


def wanted(catalogue: Catalogue, spec: JobSpec, decision: Decision) -> bool:
    """Whether a run that was decided so gets a shadow: if its job has a plan."""
    return (
        decision.stage == Stage.SHADOW
        and decision.reason != Reason.DISABLED
        and spec.plan is not None
        and JOB in catalogue
    )


def write(
    on: Connection | Session,
    catalogue: Catalogue,
    spec: JobSpec,
    decided: Sequence[tuple[NewRun, Decision]],
    written: Sequence[Run],
    now: datetime,
    *,
    waiting_backends: frozenset[str],
) -> None:
    """In the transaction of the live runs, a shadow of each that is new and to have one."""
    items = []
    for (new, decision), run in zip(decided, written, strict=True):
        if run.created and wanted(catalogue, spec, decision):
            shadow = new_run(catalogue[JOB], {"runId": run.id}, None, new.due_at)
            chosen = decision._replace(backend=spec.serverless, reason=Reason.SHADOW.value)
            items.append((shadow, chosen))
    if items:
        # Its check is due at once, so that the relay sends it: the live run's caller waits for no
        # second queue.
        write_runs(on, catalogue[JOB], items, now, timedelta(0), waiting_backends=waiting_backends)

"""Rows of the ledger, as tests put them there by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def run_row(id_: str, job: str, at: datetime, **more: Any) -> dict[str, Any]:
    """A run of RQ that succeeded, whose key is its id; `more` are other values."""
    texts = {"id": id_, "job": job, "key": id_, "payload": "{}", "status": "succeeded"}
    decided = {"backend": "rq", "reason": "STATIC", "stage": "legacy", "stage_version": 0}
    return {**texts, **decided, "created_at": at, "due_at": at, **more}


def step_row(run_id: str, at: datetime, **more: Any) -> dict[str, Any]:
    """Its one step, done; `more` are other values."""
    step = {"run_id": run_id, "name": "s", "status": "done", "backend": "rq", "updated_at": at}
    return {**step, **more}

"""Switchyard: each background job runs on RQ or on Inngest and QStash, as a flag decides.

These are the public names. The package's own modules may change with any version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.switchyard.access import Access, AccessCheck
from app.switchyard.branch import Branch
from app.switchyard.context import Context, Payload
from app.switchyard.db import include_object
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import (
    BackendUnavailable,
    BadInput,
    KeyConflict,
    NonRetriable,
    NotDone,
    OutcomeUnknown,
    PayloadInvalid,
    RetryAfter,
    SettingsError,
    StepFailed,
    SwitchyardError,
    UnknownJob,
)
from app.switchyard.job import Empty, IfUnknown, JobPayload, Legacy, Shadow, job
from app.switchyard.runs.engine import CurrentRun, current_run
from app.switchyard.runs.store import Run

if TYPE_CHECKING:
    from app.switchyard.extension import Switchyard
    from queues.adopt import adopt

__all__ = [
    "Access",
    "AccessCheck",
    "BackendUnavailable",
    "BadInput",
    "Branch",
    "Context",
    "CurrentRun",
    "Empty",
    "IfUnknown",
    "Item",
    "JobPayload",
    "KeyConflict",
    "Legacy",
    "NonRetriable",
    "NotDone",
    "OutcomeUnknown",
    "Payload",
    "PayloadInvalid",
    "RetryAfter",
    "Run",
    "SettingsError",
    "Shadow",
    "StepFailed",
    "Switchyard",
    "SwitchyardError",
    "UnknownJob",
    "adopt",
    "current_run",
    "dispatch",
    "dispatch_many",
    "include_object",
    "job",
]


def __getattr__(name: str) -> Any:
    # Imported only on request: it loads Flask and both sides, which a module of jobs must not do.
    if name == "Switchyard":
        return import_module(f"{__name__}.extension").Switchyard
    if name == "adopt":
        from queues.adopt import adopt

        return adopt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

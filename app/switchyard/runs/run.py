"""A run as dispatch() gives it back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One intent to do a job, as recorded."""

    id: str
    job: str
    key: str
    backend: str
    reason: str
    status: str
    created: bool
    """False when the intent was already known."""

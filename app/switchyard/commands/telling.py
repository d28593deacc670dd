"""Dispatch from a command, and know whether the backend could be told."""

from __future__ import annotations

from dataclasses import replace

from app.switchyard.runtime import Runtime


def watched(made: Runtime) -> tuple[Runtime, list[str]]:
    """The same parts, and the list that fills with what could not be told."""
    failures: list[str] = []
    backends = made.store.backends.noting(failures.append)
    return replace(made, store=replace(made.store, backends=backends)), failures

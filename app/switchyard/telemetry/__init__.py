"""Traces, for whoever configures OpenTelemetry's exporter by its own OTEL_… variables.

One trace is a run's: its id is kept in the run's row as a W3C traceparent, so that each slice goes
on with it, after whatever gap and on whichever side. Off, nothing of OpenTelemetry is imported, and
a span costs a call that does nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from app.switchyard import extras

if TYPE_CHECKING:
    from app.switchyard.job import JobSpec

log = logging.getLogger(__name__)

CONFIGURED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
_NOTHING = nullcontext()
Span = AbstractContextManager[Any]


class Traceable(Protocol):
    """What a run's message and its claim have in common."""

    @property
    def run_id(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def trace(self) -> str | None:
        """The run's W3C traceparent."""


class Spans:
    """What is traced; here, nothing is."""

    def request(self, name: str, headers: Any) -> Span:
        """One call of the layer's own entrances."""
        return _NOTHING

    def dispatch(self, job: str, count: int, run_id: str) -> Span:
        """The recording and first sending of so many new runs, of which this is the first."""
        return _NOTHING

    def send(self, spec: JobSpec, messages: Sequence[Traceable]) -> Span:
        """The sending of messages, the first one of this job, to one backend."""
        return _NOTHING

    def slice(self, job: str, spec: JobSpec | None, claimed: Traceable) -> Span:
        """One slice of a run, from its claim on."""
        return _NOTHING

    def step(self, name: str, attempt: int) -> Span:
        """One attempt at a step."""
        return _NOTHING

    def failed(self, failure: BaseException) -> None:
        """Say of the span at work that it failed."""

    def ended(self, **said: str | int) -> None:
        """Say of the span at work how it ended."""

    def traceparent(self) -> str | None:
        """The span at work, as W3C has it."""
        return None

    def flush(self) -> None:
        """Export what is there, before the process ends without further ado."""


spans = Spans()
"""Those of this process. Read it anew each time: `start` changes it."""


def start(environ: Mapping[str, str] = os.environ) -> None:
    """Trace from now on, if the environment configures an exporter; see docs/monitoring.md.

    Nobody's jobs stop for the want of a package: it is logged, and nothing is traced.
    """
    global spans
    exporter = environ.get(EXPORTER, "")
    wanted = any(environ.get(name) for name in CONFIGURED) or exporter
    off = exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not wanted or off or type(spans) is not Spans:
        return
    if (lacking := extras.missing("otel")) is not None:
        log.warning("OTEL_… asks for traces, and there are none: %s", lacking)
        return
    from app.switchyard.telemetry.traced import Traced  # the SDK is an extra

    spans = Traced()


def trace_id(traceparent: str | None) -> str | None:
    """The trace that a run's traceparent names, as log lines and pages show it."""
    return traceparent.split("-")[1] if traceparent else None

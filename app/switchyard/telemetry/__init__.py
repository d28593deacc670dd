"""Traces, where OpenTelemetry's own OTEL_… variables configure an exporter.

Each run is one trace. Its row has the trace's id as a W3C traceparent, so that every slice belongs
to it, after any gap and on either side. Without an exporter nothing of OpenTelemetry is imported,
and a span costs a call that does nothing.
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
    """What a run's message and its claim share."""

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
    """The spans of the product. This class traces nothing."""

    def request(self, name: str, headers: Any) -> Span:
        """A call of one of the layer's entrances."""
        return _NOTHING

    def dispatch(self, job: str, count: int, run_id: str) -> Span:
        """Recording and first sending `count` new runs, of which this is the first."""
        return _NOTHING

    def send(self, spec: JobSpec, messages: Sequence[Traceable]) -> Span:
        """Sending messages, of which the first one is of this job, to a backend."""
        return _NOTHING

    def slice(self, job: str, spec: JobSpec | None, claimed: Traceable) -> Span:
        """A slice of a run, from its claim on."""
        return _NOTHING

    def step(self, name: str, attempt: int) -> Span:
        """An attempt at a step."""
        return _NOTHING

    def failed(self, failure: BaseException) -> None:
        """Mark the current span as failed."""

    def ended(self, **said: str | int) -> None:
        """Record how the current span ended."""

    def traceparent(self) -> str | None:
        """The W3C traceparent of the current span."""
        return None

    def flush(self) -> None:
        """Export what is pending, before the process ends abruptly."""


spans = Spans()
"""The spans of this process. Read this name each time, since `start` replaces it."""


def start(environ: Mapping[str, str] = os.environ) -> None:
    """Trace from now on, if the environment configures an exporter: see docs/monitoring.md.

    A missing package stops no jobs. It is logged, and nothing is traced.
    """
    global spans
    exporter = environ.get(EXPORTER, "")
    wanted = any(environ.get(name) for name in CONFIGURED) or exporter
    off = exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not wanted or off or type(spans) is not Spans:
        return
    if (lacking := extras.missing("otel")) is not None:
        log.warning("OTEL_… configures traces, but nothing is traced: %s", lacking)
        return
    from app.switchyard.telemetry.traced import Traced  # the SDK is an extra

    spans = Traced()


def trace_id(traceparent: str | None) -> str | None:
    """The id of the trace in a run's traceparent, as log lines and pages show it."""
    return traceparent.split("-")[1] if traceparent else None

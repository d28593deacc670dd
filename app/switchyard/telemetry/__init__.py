"""Traces, where OpenTelemetry's own OTEL_… variables configure an exporter.

Each run is one trace. Its row has the trace's id as a W3C traceparent, so that every slice belongs
to it, after any gap and on either side. Without an exporter nothing of OpenTelemetry is imported,
and a span costs a call that does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

from app.switchyard import extras
from app.switchyard.logs import logger_of

if TYPE_CHECKING:
    from app.switchyard.telemetry.traced import Traced

log = logger_of(__name__)

CONFIGURED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
_NOTHING = nullcontext()


class Off:
    """In the place of Traced where nothing is traced: each of its methods does nothing."""

    def traceparent(self) -> None:
        """There is no span."""

    def __getattr__(self, name: str) -> Callable[..., AbstractContextManager[None]]:
        return _nothing


def _nothing(*_: object, **__: object) -> AbstractContextManager[None]:
    return _NOTHING


OFF = cast("Traced", Off())
spans = OFF
"""Those of this process. Read it anew each time: `start` changes it."""


def start(environ: Mapping[str, str] = os.environ) -> None:
    """Trace from now on, if the environment configures an exporter: see docs/monitoring.md.

    A missing package stops no jobs. It is logged, and nothing is traced.
    """
    global spans
    exporter = environ.get(EXPORTER, "")
    wanted = any(environ.get(name) for name in CONFIGURED) or exporter
    off = exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not wanted or off or spans is not OFF:
        return
    if (lacking := extras.missing("otel")) is not None:
        log.warning("OTEL_… configures traces, but nothing is traced: %s", lacking)
        return
    from app.switchyard.telemetry.traced import Traced  # the SDK is an extra

    spans = Traced()

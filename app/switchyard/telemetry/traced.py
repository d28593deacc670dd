"""Spans with OpenTelemetry's SDK, named by its messaging conventions (1.27 and later)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.switchyard.logs import logger_of
from app.switchyard.text import reason, trace_id

if TYPE_CHECKING:
    from app.switchyard.job import JobSpec
    from app.switchyard.runs.backend import Message

log = logger_of(__name__)

FLUSH_MS = 2000
_W3C = TraceContextTextMapPropagator()
Span = AbstractContextManager[Any]


class Claimed(Protocol):
    """What a span says of a claimed run."""

    run_id: str
    job: str
    backend: str
    epoch: int
    trace: str | None


def exporting() -> trace.TracerProvider:
    """The host's own provider where it has set one, or else one of ours with the exporter in
    OTEL_TRACES_EXPORTER, which is OTLP's by default."""
    given = trace.get_tracer_provider()
    if not isinstance(given, trace.ProxyTracerProvider):
        return given
    grpc = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc"
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    name = f"otlp_proto_{'grpc' if grpc else 'http'}" if name == "otlp" else name
    [entry] = entry_points(group="opentelemetry_traces_exporter", name=name)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(entry.load()()))
    return provider


class Traced:
    """The spans of a process. Its first span creates the provider, after any fork, so that the
    provider's thread and sockets belong to this process alone."""

    def __init__(self, provider: Callable[[], trace.TracerProvider] = exporting) -> None:
        self._provider = provider
        self._pid = 0
        self._provided: Any = None
        self._tracer: trace.Tracer = trace.NoOpTracer()

    def request(self, name: str, headers: Any) -> Span:
        """A call, in the caller's trace. A host that traces its requests has a span already."""
        if trace.get_current_span().is_recording():
            return nullcontext()
        return self._span(name, {}, SpanKind.SERVER, _W3C.extract(headers, Context()))

    def dispatch(self, job: str, count: int, run_id: str) -> Span:
        """The context of the runs' messages, which are created before they are sent."""
        of = _of("switchyard", "dispatch", "create", job, count, run_id)
        return self._span(f"dispatch {job}", of, SpanKind.PRODUCER)

    def send(self, messages: Sequence[Message]) -> Span:
        """In the trace of a single message. Several messages are linked."""
        first, known = messages[0], {message.trace for message in messages if message.trace}
        to = destination(first.backend, first.spec)
        alone = known.pop() if len(known) == 1 else None
        sent = f"{first.run_id}-{first.epoch}"
        of = _of(first.backend, "send", "send", to, len(messages), sent)
        linked = [_context(one) for one in known]
        return self._span(f"send {to}", of, SpanKind.CLIENT, self._within(alone), linked)

    def slice(self, spec: JobSpec | None, claimed: Claimed) -> Span:
        """In the run's trace, linked with the delivering call where that has its own."""
        to = claimed.job if spec is None else destination(claimed.backend, spec)
        sent = f"{claimed.run_id}-{claimed.epoch - 1}"
        of = _of(claimed.backend, "process", "process", to, 1, sent)
        of |= {"switchyard.run": claimed.run_id, "switchyard.job": claimed.job}
        within = self._within(claimed.trace)
        linked = [] if within is None else [get_current()]
        return self._span(f"process {to}", of, SpanKind.CONSUMER, within, linked)

    def step(self, name: str, attempt: int) -> Span:
        """An attempt at a step."""
        return self._span(f"step {name}", {"switchyard.step": name, "switchyard.attempt": attempt})

    def failed(self, failure: BaseException) -> None:
        """Mark the span as failed, without secrets. The ledger has the traceback."""
        span = trace.get_current_span()
        span.set_status(Status(StatusCode.ERROR, reason(failure)))
        span.set_attribute("error.type", type(failure).__name__)

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute of the current span."""
        trace.get_current_span().set_attribute(name, value)

    def traceparent(self) -> str | None:
        """The current span's traceparent, or None without one."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return carrier.get("traceparent")

    def flush(self) -> None:
        """Export what is pending, for FLUSH_MS at most."""
        if self._pid == os.getpid() and isinstance(self._provided, TracerProvider):
            self._provided.force_flush(FLUSH_MS)

    def _within(self, traceparent: str | None) -> Context | None:
        """The context of a trace, unless the current span belongs to it already."""
        if traceparent is None or trace_id(traceparent) == trace_id(self.traceparent()):
            return None
        return _context(traceparent)

    def _span(
        self,
        name: str,
        attributes: Mapping[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
        linked: Iterable[Context] = (),
    ) -> Span:
        there = (trace.get_current_span(context).get_span_context() for context in linked)
        return self._own_tracer().start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            [Link(context) for context in there if context.is_valid],
            record_exception=False,
            set_status_on_exception=False,
        )

    def _own_tracer(self) -> trace.Tracer:
        if self._pid != os.getpid():
            self._pid, self._tracer = os.getpid(), trace.NoOpTracer()
            try:
                self._provided = self._provider()
                self._tracer = self._provided.get_tracer("switchyard")
            except Exception:  # a job must not fail because of its trace
                log.exception("no traces: the exporter in OTEL_… cannot be created")
        return self._tracer


def destination(backend: str, spec: JobSpec) -> str:
    """The destination of the job's runs on this backend: a queue, an event, or the job itself."""
    return {"rq": spec.queue, "inngest": spec.event}.get(backend, spec.name)


def _of(system: str, name: str, kind: str, to: str, count: int, message: str) -> dict[str, Any]:
    """The attributes of an operation with `count` messages, given the first one's id."""
    of = {
        "messaging.system": system,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": to,
    }
    if count == 1:
        return of | {"messaging.message.id": message}
    return of | {"messaging.batch.message_count": count}


def _context(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, Context())

"""Traces: one a run, over gaps, sleeps and sides; and nothing at all where nobody asks for them."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from rq import Queue
from rq.serializers import JSONSerializer

from app.switchyard import telemetry
from app.switchyard.runs.backend import Delivery
from app.switchyard.telemetry.traced import Traced
from app.switchyard.text import trace_id
from queues.backend import connect, queue_key
from tests.support import old_tasks
from tests.support.forks import forked
from tests.support.receiver import Receiver, receiving
from tests.support.sides import Side, app_on, environment, no_worker, parts, rq_worker
from tests.support.waiting import until

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """What this process has exported."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with patch.object(telemetry, "spans", Traced(lambda: provider)):
        yield exporter


@contextmanager
def working(side: Side) -> Iterator[None]:
    """What an `rq worker` does, in a thread of this process."""
    redis, stop = connect(side.environ["REDIS_URL"]), threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            popped: Any = redis.lpop(queue_key("tests"))
            if popped is not None:
                run, _, epoch = popped.decode().partition("-")
                side.runtime.engine.perform(run, int(epoch), Delivery(f"rq-{epoch}-{run}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def of_trace(spans: Sequence[ReadableSpan], trace: str | None) -> list[ReadableSpan]:
    return [span for span in spans if f"{span.context.trace_id:032x}" == trace]


def of(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def test_one_trace_over_a_failure_a_sleep_and_both_sides(
    database_url: str, redis_url: str, tmp_path: Path, exported: InMemorySpanExporter
) -> None:
    redis = connect(redis_url)
    redis.flushall()
    environ = environment(database_url, redis_url, LEASE_SECONDS="60")
    with parts(environ, tmp_path, "inngest") as side, working(side):
        side.backend = "rq"
        run = side.dispatch("grab-bag", {"name": "traced", "moves": {1: "inngest"}})
        [row] = side.finish(run)
        until(lambda: any(s.name == "process test.grab-bag" for s in exported.get_finished_spans()))
    assert (row.status, row.backend) == ("succeeded", "inngest")
    spans = exported.get_finished_spans()
    mine = of_trace(spans, trace_id(row.trace))
    names = {span.name for span in mine}
    assert {"dispatch grab-bag", "send tests", "process tests", "step first"} <= names
    assert {"send test.grab-bag", "process test.grab-bag", "step last"} <= names
    assert "process test.child" in names  # its children's are of it too
    # Every slice and step of the run, on either side, is in it.
    assert all(of(span, "switchyard.run") in (None, run.id) or span in mine for span in spans)
    slices = [span for span in mine if of(span, "switchyard.run") == run.id]
    ends = [of(span, "switchyard.end") for span in slices]
    assert {"retry", "wait", "done"} <= set(ends)
    assert {of(span, "messaging.system") for span in slices} == {"rq", "inngest"}
    [dispatched] = [span for span in mine if span.name == "dispatch grab-bag"]
    assert all(s.parent and s.parent.span_id == dispatched.context.span_id for s in slices)
    first, again = [span for span in mine if span.name == "step first"]
    assert (first.status.status_code, of(first, "error.type")) == (StatusCode.ERROR, "RuntimeError")
    assert again.status.status_code == StatusCode.UNSET
    assert slices[0].kind is SpanKind.CONSUMER
    assert dict(slices[0].attributes or {}) | {"messaging.message.id": f"{run.id}-1"} == {
        "messaging.system": "rq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "tests",
        "messaging.message.id": f"{run.id}-1",
        "switchyard.run": run.id,
        "switchyard.job": "grab-bag",
        "switchyard.end": "retry",
    }


def test_a_call_is_in_its_caller_s_trace(
    tmp_path: Path, redis_url: str, exported: InMemorySpanExporter
) -> None:
    connect(redis_url).flushall()
    body = {"name": "test.noop", "data": {"name": "x"}}
    with app_on(environment(f"sqlite:///{tmp_path / 'x.db'}", redis_url)) as app:
        path = "/api/inngest/trigger"
        app.test_client().post(path, json=body, headers={"traceparent": PARENT})
    spans = sorted(exported.get_finished_spans(), key=lambda s: s.start_time or 0)
    assert of_trace(spans, "a" * 32) == spans
    request, dispatched, sent = spans
    assert [span.name for span in spans] == [f"POST {path}", "dispatch noop", "send tests"]
    assert of(request, "http.response.status_code") == 202
    message: Any = connect(redis_url).hgetall(f"rq:job:{of(sent, 'messaging.message.id')}")
    assert message[b"traceparent"].decode().split("-")[1:3] == [
        "a" * 32,
        f"{dispatched.context.span_id:016x}",
    ]


def test_qstash_brings_it_back(
    tmp_path: Path, redis_url: str, exported: InMemorySpanExporter
) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", redis_url, LEASE_SECONDS="60")
    with parts(environ, tmp_path, "qstash") as side:
        [row] = side.finish(side.dispatch("posted", {"name": "x"}))
    mine = of_trace(exported.get_finished_spans(), trace_id(row.trace))
    deliveries = [s for s in mine if s.name == "POST /api/qstash/deliver"]
    slices = [s for s in mine if s.name == "process posted"]
    # On a busy machine a delivery may come twice, and finds its slice done.
    assert len(slices) >= 2
    within = {s.parent.span_id for s in slices if s.parent}
    assert len(within) == len(slices)
    assert within <= {s.context.span_id for s in deliveries}


def spans_of(collector: Receiver) -> list[Any]:
    """What it was sent."""
    groups = [
        group
        for _, headers, body in collector.got
        for group in ExportTraceServiceRequest.FromString(
            gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        ).resource_spans
    ]
    return [span for group in groups for scope in group.scope_spans for span in scope.spans]


def test_a_worker_exports_by_the_standard_variables(
    tmp_path: Path, redis_url: str, exported: InMemorySpanExporter
) -> None:
    with ExitStack() as stack:
        collector = stack.enter_context(receiving())
        side = stack.enter_context(no_worker(redis_url, tmp_path))
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        stack.enter_context(rq_worker({**side.environ, **otel}, tmp_path / "worker.log"))
        [row] = side.finish(side.dispatch("noop", {"name": "x"}))
        spans = until(lambda: spans_of(collector))
    assert [(s.name, s.trace_id.hex()) for s in spans] == [("process tests", trace_id(row.trace))]


def test_a_work_horse_exports_before_it_ends(tmp_path: Path, redis_url: str) -> None:
    """It ends by os._exit(), and what it has traced is not to wait for a batch."""
    legacy = {"LEGACY_FUNCTIONS": f"{old_tasks.__name__}.*"}
    with receiving() as collector, no_worker(redis_url, tmp_path, **legacy) as side:
        queue = Queue("tests", connection=connect(redis_url), serializer=JSONSerializer)
        queue.enqueue(old_tasks.order, "x")
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with rq_worker({**side.environ, **otel}, tmp_path / "worker.log"):
            spans = until(lambda: spans_of(collector))
    assert {span.name for span in spans} == {"send tests", "dispatch noop"}


def test_a_fork_has_a_provider_of_its_own() -> None:
    came: list[int] = []

    def provider() -> TracerProvider:
        came.append(os.getpid())
        return TracerProvider()

    traced = Traced(provider)
    for pid in (11, 11, 12, 12):
        with patch("os.getpid", return_value=pid), traced.step("x", 1):
            pass
    assert came == [11, 12]


OFF = """
import json, os, sys
from flask import Flask
from app.switchyard import Empty, Switchyard, dispatch, job
@job("hello", event="demo.hello", payload=Empty, queue="default")
def hello(ctx, payload): ...
app = Flask("host")
Switchyard(app, jobs=[hello])
from app.switchyard import runtime, schema
schema.metadata.create_all(runtime.current().db.engine)
with app.app_context():
    dispatch("hello")
# The only one that imports it; where it is installed, redis does so as well.
print(json.dumps([m for m in sys.modules if m.startswith(runtime.__package__ + ".telemetry.")]))
"""


@pytest.mark.parametrize("more", [{}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_off_it_is_not_even_imported(tmp_path: Path, more: dict[str, str]) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'x.db'}", "redis://127.0.0.1:1/0", **more)
    del environ["SWITCHYARD_JOBS"]
    said = forked(["-c", OFF], environ)
    assert (said.returncode, said.stdout) == (0, "[]\n"), said.stderr


def test_without_the_package_nothing_stops(caplog: pytest.LogCaptureFixture) -> None:
    with patch("app.switchyard.extras.missing", return_value="the package x is not installed"):
        telemetry.start({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert "nothing is traced: the package x is not installed" in caplog.text
    assert telemetry.spans is telemetry.OFF


def test_an_exporter_that_is_not_there_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with Traced().dispatch("noop", 1, "r1"):
        assert os.getpid()
    assert "the exporter in OTEL_… cannot be created" in caplog.text

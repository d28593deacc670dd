"""The Procfile's web process, alone: whoever is slow to ask, or long in being served, holds up
nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from app.switchyard.dispatch import dispatch_many
from app.switchyard.runs.memory import MemoryBackend
from tests.local.test_procfile import given, left_of, start
from tests.support.sides import Fixed, decide_by, fresh
from tests.support.waiting import PATIENCE_SECONDS, until
from tests.switchyard.test_signed_calls import a_call

HALF_A_HEADER = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HALF_A_BODY = (
    b"POST /api/inngest/trigger HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
)
HALF_A_CHUNK = HALF_A_BODY.replace(b"Content-Length: 5000", b"Transfer-Encoding: chunked")
SLOW_CALLS = 40


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web process that runs the tests' jobs."""
    environ = given(tmp_path, "unix:///nowhere")
    environ |= {"SWITCHYARD_JOBS": "tests.support.jobs", "LOG_LEVEL": "ERROR"}
    runtime = fresh(environ, [MemoryBackend("inngest")])
    process = start("web", environ, tmp_path / "web.log")
    url = f"http://127.0.0.1:{environ['PORT']}"
    try:
        until(lambda: _answers(url), (tmp_path / "web.log").read_text)
        yield url
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
        assert left_of(process.pid) == []
    finally:
        runtime.db.dispose()
        for left in left_of(process.pid):
            left.kill()


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{url}/healthz", timeout=PATIENCE_SECONDS).status_code == 200
    return False


def test_five_hundred_clients_that_never_end(web: str) -> None:
    """S2: half a header, half a body, half a chunk, or nothing at all."""
    port = int(web.rpartition(":")[2])
    with ExitStack() as stack:
        slow = []
        for n in range(500):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall((HALF_A_HEADER, HALF_A_BODY, HALF_A_CHUNK, b"")[n % 4])
            slow.append(one)
        for _ in range(10):
            assert _answers(web)
            for one in slow[:100:2]:
                one.sendall(b"1")  # they go on, a byte at a time
        call = {"name": "test.noop", "data": {"name": "x"}, "id": "slow"}
        answer = requests.post(f"{web}/api/inngest/trigger", json=call, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 202


def test_what_is_no_http_is_answered(web: str) -> None:
    """It was dropped without an answer, with an error in the log for each."""
    port = int(web.rpartition(":")[2])
    for header in (b"X-Odd: \0", b"X-Odd: a\rb", b"X-Odd : a"):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as odd:
            odd.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n" + header + b"\r\n\r\n")
            assert odd.recv(100).startswith(b"HTTP/1.0 400 Bad Request")
    assert _answers(web)


def test_long_steps_leave_the_rest_answered(web: str, tmp_path: Path) -> None:
    """I11: more slices of runs at once than there are threads."""
    gate = tmp_path / "gate"
    where = f"{web}/api/inngest?fnId=switchyard-gated&stepId=step"
    decide_by(Fixed("inngest"))
    runs = dispatch_many("gated", [{"name": str(gate)}] * SLOW_CALLS)

    def step(run_id: str) -> int:
        body = a_call("test.gated", {"_switchyard": {"run": run_id, "epoch": 1}})
        body = body.replace(b'"run_id":"R"', b'"run_id":"%b"' % run_id.encode())
        return requests.post(where, data=body, timeout=PATIENCE_SECONDS).status_code

    with ThreadPoolExecutor(SLOW_CALLS) as pool:
        calls = [pool.submit(step, run.id) for run in runs]
        until(lambda: len(list(tmp_path.glob("gate.*"))) >= 12)
        for _ in range(10):
            assert _answers(web)
        assert not any(call.done() for call in calls)
        gate.touch()
        assert {call.result() for call in calls} <= {200, 206}

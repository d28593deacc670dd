"""The stand-in as the real client meets it: strict, signed, at least once, and after a restart."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from qstash import QStash, Receiver
from qstash.errors import QStashError
from qstash.log import LogState
from werkzeug.wrappers import Request, Response

from app.local.qstash import params
from app.local.qstash.standin import QStashStandIn
from app.local.serving import require_loopback, serve_in_thread
from app.platform.config import ROOT
from tests.support.sides import CURRENT_KEY, NEXT_KEY, free_port
from tests.support.waiting import until

TOKEN = "a-token-of-the-tests"


class Destination:
    """What is called: it notes each call, and answers as it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.answers: list[Response] = []
        self.wait_seconds = 0.0
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, environ: Any, start: Any) -> Any:
        request = Request(environ)
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.wait_seconds)
        with self.lock:
            self.inside -= 1
            self.calls.append((request.path, dict(request.headers), request.get_data()))
            mine = request.path == "/" and self.answers
            answer = self.answers.pop(0) if mine else Response("ok")
        return answer(environ, start)

    def bodies(self, path: str = "/") -> list[bytes]:
        return [body for called, _, body in list(self.calls) if called == path]


@pytest.fixture
def there() -> Destination:
    return Destination()


@pytest.fixture
def url(there: Destination) -> Iterator[str]:
    with serve_in_thread(there) as served:
        yield f"{served}/"


@contextmanager
def standing(**options: Any) -> Iterator[tuple[QStashStandIn, QStash]]:
    with QStashStandIn(TOKEN, CURRENT_KEY, **{"gap_scale": 0.01, "seed": 1, **options}) as made:
        yield made, QStash(TOKEN, retry=False, base_url=made.url)


def test_a_message_arrives_signed_with_its_headers(there: Destination, url: str) -> None:
    with standing() as (_, client):
        answer: Any = client.message.publish_json(
            url=f"{url}a?b=1", body={"x": "ü"}, headers={"My-Header": "mine"}
        )
        until(lambda: len(there.calls) == 1)
        _, headers, body = there.calls[0]
        token = headers["Upstash-Signature"]
        receiver = Receiver(CURRENT_KEY, NEXT_KEY)
        receiver.verify(signature=token, body=body.decode(), url=f"{url}a?b=1")
        assert json.loads(body) == {"x": "ü"}
        assert headers["Upstash-Message-Id"] == answer.message_id
        assert len(answer.message_id) == 67
        assert (headers["Upstash-Retried"], headers["My-Header"]) == ("0", "mine")
        assert (headers["User-Agent"], headers["Content-Type"]) == (
            "Upstash-QStash",
            "application/json",
        )
        until(lambda: len(client.log.list().logs) == 2)
        states = {
            log.state for log in client.log.list(filter={"message_id": answer.message_id}).logs
        }
        assert states == {LogState.CREATED, LogState.DELIVERED}
        with pytest.raises(QStashError, match="404"):
            client.message.get(answer.message_id)


def test_one_deduplication_id_is_one_message(there: Destination, url: str) -> None:
    with standing() as (_, client):
        batch: Any = [{"url": url, "deduplication_id": "d", "body": "1"}, {"url": url, "body": "2"}]
        first: list[Any] = client.message.batch(batch)
        until(lambda: len(there.calls) == 2)
        again: Any = client.message.publish(url=url, deduplication_id="d", body="3")
        assert (again.message_id, again.deduplicated) == (first[0].message_id, True)
        assert sorted(there.bodies()) == [b"1", b"2"]


def test_delays_cancelling_and_looking(there: Destination, url: str) -> None:
    with standing() as (made, client):
        now = int(time.time())
        later: Any = client.message.publish(url=url, body="d", delay="1m", not_before=now + 3600)
        soon: Any = client.message.publish(url=url, body="s", delay=1)
        assert client.message.get(later.message_id).not_before == (now + 3600) * 1000
        assert client.message.get(later.message_id).body == "d"
        until(lambda: there.bodies() == [b"s"])
        until(lambda: len(made.store.waiting()) == 1)
        assert time.time() >= now + 1
        client.message.cancel(later.message_id)
        with pytest.raises(QStashError, match="404"):
            client.message.cancel(later.message_id)
        assert client.message.cancel_many([soon.message_id]) == 0
        client.message.publish(url=url, delay=60)
        assert client.message.cancel_all() == 1


def test_it_tries_again_and_then_gives_up(there: Destination, url: str) -> None:
    there.answers = [Response("no", status) for status in (500, 404, 302, 500)]
    with standing(gap_scale=1e-4) as (_, client):
        sent: Any = client.message.publish(
            url=url, body="b", callback=f"{url}called", failure_callback=f"{url}failed"
        )
        until(lambda: len(there.bodies("/failed")) == 1 and len(there.bodies("/called")) == 4)
        tried = [h["Upstash-Retried"] for path, h, _ in there.calls if path == "/"]
        assert tried == ["0", "1", "2", "3"]
        failure = json.loads(there.bodies("/failed")[0])
        assert (failure["status"], failure["retried"], failure["maxRetries"]) == (500, 3, 3)
        assert failure["sourceMessageId"] == sent.message_id
        assert base64.b64decode(failure["sourceBody"]) == b"b"
        assert base64.b64decode(failure["body"]) == b"no"
        (dead,) = client.dlq.list(filter={"message_id": sent.message_id}).messages
        assert (dead.dlq_id, dead.response_status, dead.body) == (failure["dlqId"], 500, "b")
        assert client.dlq.get(dead.dlq_id).message_id == sent.message_id
        assert client.dlq.list(filter={"message_id": "msg_other"}).messages == []
        requests.post(
            f"{client.http._base_url}/v2/dlq/retry/{dead.dlq_id}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        ).raise_for_status()
        until(lambda: len(there.bodies()) == 5)
        assert client.dlq.list().messages == []


def test_what_is_not_to_be_tried_again_is_not(there: Destination, url: str) -> None:
    never = Response("never", 489, headers={"Upstash-NonRetryable-Error": "true"})
    there.answers = [never]
    with standing() as (_, client):
        client.message.publish(url=url)
        until(lambda: len(client.dlq.list().messages) == 1)
        client.dlq.delete(client.dlq.list().messages[0].dlq_id)
        assert (client.dlq.list().messages, len(there.calls)) == ([], 1)


@pytest.mark.parametrize("said", ["1", "1s"])
def test_retry_after_is_honoured(there: Destination, url: str, said: str) -> None:
    there.answers = [Response("", 503, headers={"Retry-After": said})]
    with standing(gap_scale=1000) as (_, client):
        began = time.monotonic()
        client.message.publish(url=url)
        until(lambda: len(there.calls) == 2)
        assert time.monotonic() - began >= 1


def test_parallelism_is_kept(there: Destination, url: str) -> None:
    there.wait_seconds = 0.2
    with standing() as (_, client):
        batch: Any = [
            {"url": url, "flow_control": {"key": "k", "parallelism": 2}} for _ in range(8)
        ]
        client.message.batch(batch)
        until(lambda: len(there.calls) == 8)
    assert there.most == 2


def test_a_queue_is_in_order_whatever_fails(there: Destination, url: str) -> None:
    there.answers = [Response("", 500)]
    with standing() as (_, client):
        for number in range(5):
            client.message.enqueue(queue="q", url=url, body=str(number))
        until(lambda: len(there.calls) == 6)
    assert there.bodies() == [b"0", b"0", b"1", b"2", b"3", b"4"]


def test_on_a_bad_day_twice_and_out_of_order(there: Destination, url: str) -> None:
    with standing() as (made, client):
        made.fault(double=0.5, late=1.0)
        for number in range(30):
            client.message.publish(url=url, body=str(number))
        until(lambda: not made.store.due(time.time() + 60))
    bodies = there.bodies()
    assert set(bodies) == {str(number).encode() for number in range(30)}
    assert 30 < len(bodies) < 60
    assert list(dict.fromkeys(bodies)) != sorted(set(bodies), key=int)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://127.0.0.1/x"},
        {"url": "not a url"},
        {"url": "http://example.com/"},
        {"delay": "soon"},
        {"delay": "8d"},
        {"retries": 9},
        {"timeout": "2h"},
        {"not_before": -5},
        {"method": "BREW"},
        {"callback": "nowhere"},
        {"headers": {"upstash-forward-x": "1"}, "flow_control": {"key": "k", "parallelism": 0}},
        {"flow_control": {"key": "a b", "parallelism": 1}},
        {"retry_delay": "1000"},
        {"body": b"x" * (params.MAX_BODY + 1)},
    ],
)
def test_what_is_wrong_is_refused(url: str, options: dict[str, Any]) -> None:
    with standing() as (made, client):
        with pytest.raises(QStashError, match="status: 400"):
            client.message.publish(**{"url": url, **options})
        assert made.store.waiting() == []


def test_a_wrong_token_and_a_wrong_cron(url: str) -> None:
    with standing() as (made, client):
        with pytest.raises(QStashError, match="status: 401"):
            QStash("other", retry=False, base_url=made.url).message.publish(url=url)
        for cron in ("* * * *", "61 * * * *", "", "@daily"):
            with pytest.raises(QStashError, match="status: 400"):
                client.schedule.create(destination=url, cron=cron)
        for odd in ("a b", "a/b", "a:b"):
            with pytest.raises(QStashError, match="status: 400"):
                client.schedule.create(destination=url, cron="0 0 * * *", schedule_id=odd)
            with pytest.raises(QStashError, match="status: 400"):
                client.message.enqueue(queue=odd, url=url)
            with pytest.raises(QStashError, match="status: 400"):
                client.message.batch([{"url": url, "queue": odd}])
        assert (client.schedule.list(), made.store.waiting()) == ([], [])
        for call in (client.schedule.get, client.schedule.delete, client.schedule.pause):
            with pytest.raises(QStashError, match="status: 404"):
                call("none")
    with pytest.raises(ValueError, match="loopback only"):
        require_loopback("0.0.0.0")


def test_a_schedule_ticks_overwrites_pauses(there: Destination, url: str) -> None:
    now = [time.time()]
    with standing(clock=lambda: now[0]) as (_, client):
        client.schedule.create(schedule_id="s", destination=url, cron="0 0 1 1 *", body="old")
        client.schedule.create(schedule_id="s", destination=url, cron="* * * * *", body="new")
        assert [s.schedule_id for s in client.schedule.list()] == ["s"]
        now[0] += 60
        until(lambda: there.bodies() == [b"new"])
        assert there.calls[0][1]["Upstash-Schedule-Id"] == "s"
        assert client.schedule.get("s").last_schedule_time == int(now[0] * 1000)
        client.schedule.pause("s")
        now[0] += 60
        until(lambda: (client.schedule.get("s").next_schedule_time or 0) > now[0] * 1000)
        client.schedule.resume("s")
        now[0] += 60
        until(lambda: there.bodies() == [b"new", b"new"])
        client.schedule.delete("s")
        assert client.schedule.list() == []


def test_killed_it_goes_on_where_it_was(there: Destination, url: str, tmp_path: Path) -> None:
    port = free_port()
    command = [
        *(sys.executable, "-m", "app.local.qstash", "--port", str(port), "--token", TOKEN),
        *("--data", str(tmp_path / "q.db")),
    ]
    environ = {"QSTASH_CURRENT_SIGNING_KEY": CURRENT_KEY, "PATH": "/"}
    client = QStash(TOKEN, retry=False, base_url=f"http://127.0.0.1:{port}")

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}\n"
        process.stdout.close()
        return process

    process = start()
    try:
        client.message.publish(url=url, body="later", delay=2, deduplication_id="d")
        client.schedule.create(schedule_id="s", destination=url, cron="0 0 1 1 *")
        process.kill()
        process.wait()
        process = start()
        assert [s.schedule_id for s in client.schedule.list()] == ["s"]
        again: Any = client.message.publish(url=url, body="again", deduplication_id="d")
        assert again.deduplicated
        until(lambda: there.bodies() == [b"later"])
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_it_needs_a_key_to_sign_with() -> None:
    command = [sys.executable, "-m", "app.local.qstash", "--port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "QSTASH_CURRENT_SIGNING_KEY is not set" in done.stderr

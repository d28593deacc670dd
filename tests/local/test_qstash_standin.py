"""The QStash stand-in as the real client meets it: strict, signed, at least once."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from qstash import QStash
from qstash.errors import QStashError
from werkzeug.wrappers import Request, Response

from app.local.qstash import params
from app.switchyard.config import LOCAL_QSTASH_TOKEN
from tests.support.serving import serve_in_thread
from tests.support.sides import CURRENT_KEY
from tests.support.standins import QStashStandIn
from tests.support.waiting import until


class Destination:
    """The URL that is called. It records each call, and gives the answers that it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.answers: list[Response] = []

    def __call__(self, environ: Any, start: Any) -> Any:
        request = Request(environ)
        mine = request.path == "/" and self.answers
        answer = self.answers.pop(0) if mine else Response("ok")
        self.calls.append((request.path, dict(request.headers), request.get_data()))
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
    given = {"gap_scale": 0.01, "seed": 1, **options}
    with QStashStandIn(LOCAL_QSTASH_TOKEN, CURRENT_KEY, **given) as standin:
        yield standin, QStash(LOCAL_QSTASH_TOKEN, retry=False, base_url=standin.url)


def publish(client: QStash, url: str, **options: Any) -> Any:
    """A message as this product sends them: in a batch."""
    message: Any = {"url": url, "content_type": "application/json", "body": "{}", **options}
    return client.message.batch([message])[0]


def test_a_message_arrives_with_its_headers(there: Destination, url: str) -> None:
    with standing() as (standin, client):
        answer = publish(client, f"{url}a?b=1", body='{"x": "ü"}')
        until(lambda: len(there.calls) == 1)
        _, headers, body = there.calls[0]
        assert json.loads(body) == {"x": "ü"}
        assert (headers["Upstash-Message-Id"], len(answer.message_id)) == (answer.message_id, 67)
        assert headers["Upstash-Retried"] == "0"
        until(lambda: not standin.store.kept())
        with pytest.raises(QStashError, match="status: 404"):
            client.message.get(answer.message_id)
        assert client.signing_key.get().current == CURRENT_KEY


def test_one_deduplication_id_is_one_message_for_ten_minutes(there: Destination, url: str) -> None:
    now = [time.time()]
    with standing(clock=lambda: now[0]) as (_, client):
        first = publish(client, url, deduplication_id="d", body="1")
        again = publish(client, url, deduplication_id="d", body="2")
        assert (again.message_id, again.deduplicated) == (first.message_id, True)
        now[0] += 601
        assert not publish(client, url, deduplication_id="d", body="3").deduplicated
        until(lambda: sorted(there.bodies()) == [b"1", b"3"])


def test_what_waits_is_seen_and_can_be_cancelled(there: Destination, url: str) -> None:
    with standing() as (standin, client):
        now = int(time.time())
        later = publish(client, url, body="later", not_before=now + 3600)
        soon = publish(client, url, body="soon", not_before=now + 2)
        seen = client.message.get(later.message_id)
        assert (seen.not_before, seen.body) == ((now + 3600) * 1000, "later")
        until(lambda: there.bodies() == [b"soon"])
        assert time.time() >= now + 2
        until(lambda: len(standin.store.kept()) == 1)
        ids = [later.message_id, soon.message_id]
        assert [client.message.cancel_many(ids) for _ in range(2)] == [1, 0]
        # Without ids the real one cancels everything: nobody here may mean that.
        with pytest.raises(QStashError, match="400"):
            client.message.cancel_all()


def test_it_tries_again_and_then_gives_up(there: Destination, url: str) -> None:
    there.answers = [Response("no", status) for status in (500, 404, 302, 500)]
    with standing(gap_scale=1e-4) as (_, client):
        sent = publish(client, url, body="b", failure_callback=f"{url}failed")
        until(lambda: len(there.bodies("/failed")) == 1)
        tried = [h["Upstash-Retried"] for path, h, _ in there.calls if path == "/"]
        assert tried == ["0", "1", "2", "3"]
        failure = json.loads(there.bodies("/failed")[0])
        assert (failure["status"], failure["retried"], failure["maxRetries"]) == (500, 3, 3)
        assert failure["sourceMessageId"] == sent.message_id
        assert base64.b64decode(failure["sourceBody"]) == b"b"
        assert base64.b64decode(failure["body"]) == b"no"
        (dead,) = client.dlq.list(count=1, filter={"message_id": sent.message_id}).messages
        assert (dead.dlq_id, dead.response_status, dead.body) == (failure["dlqId"], 500, "b")
        assert client.dlq.list(filter={"message_id": "msg_other"}).messages == []
        assert client.message.cancel_many([sent.message_id]) == 0


def test_what_is_not_to_be_tried_again_is_not(there: Destination, url: str) -> None:
    there.answers = [Response("never", 489, headers={"Upstash-NonRetryable-Error": "true"})]
    with standing() as (_, client):
        publish(client, url)
        until(lambda: len(client.dlq.list().messages) == 1)
        assert len(there.calls) == 1


def test_retry_after_is_honoured(there: Destination, url: str) -> None:
    there.answers = [Response("", 503, headers={"Retry-After": "1"})]
    with standing(gap_scale=1000) as (_, client):
        began = time.monotonic()
        publish(client, url)
        until(lambda: len(there.calls) == 2)
        assert time.monotonic() - began >= 1


WRONG: list[dict[str, Any]] = [
    *({"url": url} for url in ("ftp://127.0.0.1/x", "not a url", "http://example.com/")),
    {"retries": 9},
    *({"timeout": timeout} for timeout in ("2h", "0s", "soon")),
    *({"not_before": at} for at in (-5, int(time.time()) + 8 * 86_400)),
    {"method": "BREW"},
    {"failure_callback": "nowhere"},
    *({"flow_control": {"key": key, "parallelism": n}} for key, n in (("k", 0), ("a b", 1))),
    {"flow_control": {"key": "k", "rate": 5}},
    {"body": "x" * (params.MAX_BODY + 1)},
    # What this product never sends.
    *({name: "http://127.0.0.1:9/"} for name in ("callback", "retry_delay", "delay")),
    {"headers": {"X": "1"}},
    {"queue": "q"},
]


def test_what_is_wrong_is_refused(url: str) -> None:
    with standing() as (standin, client):
        for options in WRONG:
            with pytest.raises(QStashError, match="status: 400"):
                publish(client, **{"url": url, **options})
        assert standin.store.kept() == []


WRONG_SCHEDULES: list[dict[str, Any]] = [
    *({"cron": cron} for cron in ("* * * *", "61 * * * *", "", "@daily")),
    *({"schedule_id": odd} for odd in ("a b", "a/b", "a:b")),
    {"destination": "http://example.com/"},
    {"queue": "q"},
]


def test_a_wrong_schedule_is_refused(url: str) -> None:
    given: dict[str, Any] = {"destination": url, "cron": "0 0 * * *", "body": {}}
    with standing() as (_, client):
        for options in WRONG_SCHEDULES:
            with pytest.raises(QStashError, match="status: 400"):
                client.schedule.create_json(**{**given, **options})
        assert client.schedule.list() == []
        with pytest.raises(QStashError, match="status: 404"):
            client.schedule.delete("none")


def test_a_schedule_ticks_and_is_overwritten(there: Destination, url: str) -> None:
    now = [time.time()]
    with standing(clock=lambda: now[0]) as (_, client):
        for cron, body in (("0 0 1 1 *", "old"), ("* * * * *", "new")):
            client.schedule.create_json(schedule_id="s", destination=url, cron=cron, body=body)
        assert [s.schedule_id for s in client.schedule.list()] == ["s"]
        now[0] += 60
        until(lambda: there.bodies() == [b'"new"'])
        assert there.calls[0][1]["Upstash-Schedule-Id"] == "s"
        (schedule,) = client.schedule.list()
        assert schedule.last_schedule_time == int(now[0] * 1000)
        assert (schedule.next_schedule_time or 0) > now[0] * 1000
        client.schedule.delete("s")
        assert client.schedule.list() == []

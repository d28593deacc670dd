"""The stand-in for Upstash Redis as documented, and the real client's limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from redis.exceptions import ResponseError
from upstash_redis import Redis as Upstash
from werkzeug.wrappers import Request, Response

from app.platform.config import load
from app.switchyard.cache.cache import MAX_VALUE, open_cache
from app.switchyard.cache.client import upstash_client
from app.switchyard.errors import BadInput, SettingsError
from tests.support.cached import TOKEN, Kit, kit_of
from tests.support.serving import serve_in_thread
from tests.support.upstash import MAX_REQUEST
from tests.support.waiting import PATIENCE_SECONDS

BEARER = {"Authorization": f"Bearer {TOKEN}"}
BOTH = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1/", "UPSTASH_REDIS_REST_TOKEN": TOKEN}


@pytest.fixture
def kit(redis_url: str) -> Iterator[Kit]:
    with kit_of("upstash", redis_url) as made:
        yield made


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (["LPUSH", "text", "x"], "WRONGTYPE"),
        (["GET", None], "failed to parse"),
        (["SET", "k", "x" * MAX_REQUEST], "ERR max request size exceeded"),
    ],
)
def test_a_refusal_is_worded_as_upstash_does(kit: Kit, body: Any, says: str) -> None:
    kit.raw.set("text", "x")
    answer = requests.post(kit.url, json=body, headers=BEARER, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert says in answer.json()["error"]
    assert not kit.raw.exists("k")


def test_the_largest_value_there_may_be_is_kept(kit: Kit) -> None:
    largest = '"' * ((MAX_VALUE - 6) // 4)  # each is four bytes on the way
    assert kit.cache.put("k", largest, 60)
    assert kit.cache.get_or_compute("k", lambda: largest, 60) == largest
    with pytest.raises(BadInput, match="bytes"):
        kit.cache.put("k", largest + '"', 60)


def test_a_connection_is_kept_through_a_quiet_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """To open one to a distant server takes longer than a caller waits for the cache."""
    ports: list[str] = []

    @Request.application
    def app(request: Request) -> Response:
        ports.append(request.environ["REMOTE_PORT"])
        return Response('{"result": "OK"}')

    with serve_in_thread(app) as url:
        client = upstash_client(url, SecretStr(TOKEN))
        client(["SET", "k", "v"])
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
        monkeypatch.setattr("httpcore._sync.http11.time", later)
        client(["SET", "k", "v"])
    assert (len(ports), len(set(ports))) == (2, 1)


@pytest.mark.parametrize("name", BOTH)
def test_half_a_setting_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="set both or none"):
        load({name: BOTH[name]})


def test_the_settings_choose_the_client_with_its_limits() -> None:
    client: Any = open_cache(load(BOTH))._breaker._connect()
    upstash = client.args[0].__self__
    assert isinstance(upstash, Upstash)
    other: Any = open_cache(load({}))._breaker._connect()
    assert other.args[1] is ResponseError
    assert TOKEN not in repr(load(BOTH))
    assert upstash._http._retries == 0
    assert set(upstash._http._client.timeout.as_dict().values()) == {2.0}

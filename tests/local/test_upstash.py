"""The stand-in for Upstash Redis, by its wire and by the real client; and which cache is chosen."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from upstash_redis import Redis as Upstash
from upstash_redis.errors import UpstashError
from werkzeug.wrappers import Request, Response

from app.local.serving import LoopbackServer, serve_in_thread
from app.platform.config import load
from app.switchyard.cache.cache import MAX_VALUE, open_cache
from app.switchyard.cache.client import RedisClient, UpstashClient
from app.switchyard.errors import BadInput, SettingsError
from tests.support.cached import TOKEN, Kit, kit_of
from tests.support.upstash.server import MAX_REQUEST, UpstashStandIn

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def kit(redis_url: str) -> Iterator[Kit]:
    with kit_of("upstash", redis_url) as made:
        yield made


@pytest.fixture
def client(kit: Kit) -> Iterator[Any]:
    with Upstash(kit.url, TOKEN, rest_retries=0) as made:
        yield made


def post(kit: Kit, path: str, body: Any, **headers: str) -> requests.Response:
    return requests.post(f"{kit.url}{path}", json=body, headers={**BEARER, **headers}, timeout=10)


@pytest.mark.parametrize("path", ["/", "/pipeline", "/multi-exec", "/get/k", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \u00e9"},
    ],
)
def test_nothing_without_the_token(
    kit: Kit, path: str, method: str, headers: dict[str, str]
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answer = requests.request(
        method, f"{kit.url}{path}", json=["SET", "k", "v"], headers=sent, timeout=10
    )
    assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
    assert not kit.raw.exists("k")


def test_the_token_may_be_in_the_query(kit: Kit) -> None:
    url = f"{kit.url}/?_token={TOKEN}"
    assert requests.post(url, json=["SET", "k", "v"], timeout=10).json() == {"result": "OK"}
    assert requests.post(f"{url}x", json=["GET", "k"], timeout=10).status_code == 401


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (["SET", "k", "é"], "OK"),
        (["PING"], "PONG"),
        (["GET", "none"], None),
        (["EXPIRE", "none", 5], 0),
        (["EVAL", "return {1, 'a', false, {'b'}}", 0], [1, "a", None, ["b"]]),
        (["ZADD", "z", 1.5, "m"], 1),
        (["ZRANGE", "scores", 0, -1, "WITHSCORES"], ["m", "1.5"]),
        (["HSET", "h", "f", "v"], 1),
        (["HGETALL", "hash"], ["f", "v"]),
    ],
)
def test_an_answer_is_plain_or_base64_as_asked(kit: Kit, command: list[Any], result: Any) -> None:
    kit.raw.zadd("scores", {"m": 1.5})
    kit.raw.hset("hash", "f", "v")
    plain = post(kit, "/", command)
    assert (plain.status_code, plain.json()) == (200, {"result": result})
    kit.raw.delete("z", "h")
    encoded = post(kit, "/", command, **{"Upstash-Encoding": "base64"}).json()["result"]
    assert decoded(encoded) == result


def decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [decoded(one) for one in value]
    return b64decode(value).decode() if isinstance(value, str) and value != "OK" else value


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/", ["NOSUCH"], "unknown command"),
        ("/", ["GET"], "wrong number of arguments"),
        ("/", ["LPUSH", "text", "x"], "WRONGTYPE"),
        ("/", [], "failed to parse"),
        ("/", {"a": 1}, "failed to parse"),
        ("/", ["GET", None], "failed to parse"),
        ("/", ["GET", ["k"]], "failed to parse"),
        ("/", ["multi"], "not available"),
        ("/", ["SUBSCRIBE", "c"], "not available"),
        ("/pipeline", [], "failed to parse pipeline"),
        ("/pipeline", ["SET", "k", "v"], "failed to parse"),
        ("/pipeline", [["SET", "k", "v"], []], "failed to parse"),
        ("/multi-exec", [["SET", "k", "v"], ["NOSUCH"]], "unknown command"),
        ("/set/k/v", [], "in the body only"),
    ],
)
def test_a_refusal_is_worded_as_upstash_does(kit: Kit, path: str, body: Any, says: str) -> None:
    kit.raw.set("text", "x")
    answer = post(kit, path, body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    assert not kit.raw.exists("k")


def test_what_is_not_json(kit: Kit) -> None:
    for body in (b"{", b"\xff", b"[" * 100_000):
        answer = requests.post(kit.url, data=body, headers=BEARER, timeout=10)
        assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert requests.get(kit.url, headers=BEARER, timeout=10).status_code == 405


def test_a_pipeline_goes_on_after_an_error(kit: Kit) -> None:
    body = [["SET", "k", "v"], ["LPUSH", "k", "x"], ["GET", "k"]]
    for path in ("/pipeline", "/multi-exec"):
        answer = post(kit, path, body)
        first, second, third = answer.json()
        assert (answer.status_code, first, third) == (200, {"result": "OK"}, {"result": "v"})
        assert second["error"].startswith("WRONGTYPE")


def test_the_real_client(client: Any) -> None:
    assert client.set("k", "é", px=60_000)
    assert client.get("k") == "é"
    assert client.set("k", "other", nx=True) is False
    assert client.mget("k", "none") == ["é", None]
    assert client.zadd("z", {"a": 1.5, "b": 2}) == 2
    assert client.zrange("z", 0, -1, withscores=True) == [("a", 1.5), ("b", 2.0)]
    assert client.hset("h", values={"f": "v"}) == 1
    assert client.hgetall("h") == {"f": "v"}
    assert client.eval("return {KEYS[1], ARGV[1]}", ["a"], ["b"]) == ["a", "b"]
    assert client.pipeline().set("p", 1).incr("p").exec() == [True, 2]
    assert client.multi().set("m", 1).incr("m").exec() == [True, 2]
    with pytest.raises(UpstashError, match="WRONGTYPE"):
        client.lpush("k", "x")


def test_a_request_has_at_most_a_megabyte(kit: Kit) -> None:
    answer = post(kit, "/", ["SET", "k", "x" * MAX_REQUEST])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("ERR max request size exceeded")


def test_the_largest_value_there_may_be_is_kept(kit: Kit) -> None:
    largest = '"' * ((MAX_VALUE - 6) // 4)  # each is four bytes on the way
    assert kit.cache.put("k", largest, 60)
    assert kit.cache.get_or_compute("k", lambda: largest, 60) == largest
    with pytest.raises(BadInput, match="bytes"):
        kit.cache.put("k", largest + '"', 60)
    assert kit.cache.put("other", 1, 60)


def test_a_connection_is_kept_through_a_quiet_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one to a server far away takes longer than a caller waits for the cache."""
    ports: list[str] = []

    @Request.application
    def app(request: Request) -> Response:
        ports.append(request.environ["REMOTE_PORT"])
        return Response('{"result": "OK"}')

    with serve_in_thread(app) as url:
        client = UpstashClient(url, SecretStr(TOKEN))
        client.run(["SET", "k", "v"])
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
        monkeypatch.setattr("httpcore._sync.http11.time", later)
        client.run(["SET", "k", "v"])
    assert len(ports) == 2
    assert len(set(ports)) == 1


def test_a_server_that_is_gone_is_an_error() -> None:
    server = LoopbackServer(UpstashStandIn("redis://127.0.0.1:1/0", TOKEN))
    answer = requests.post(server.start(), json=["PING"], headers=BEARER, timeout=10)
    assert (answer.status_code, answer.json()) == (500, {"error": "ERR ConnectionError"})
    server.stop()


BOTH = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1/", "UPSTASH_REDIS_REST_TOKEN": TOKEN}


@pytest.mark.parametrize("name", BOTH)
def test_half_a_setting_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="set both or none"):
        load({name: BOTH[name]})


def test_the_settings_choose_the_client() -> None:
    upstash, local = open_cache(load(BOTH)), open_cache(load({}))
    assert isinstance(upstash._breaker._connect(), UpstashClient)
    assert isinstance(local._breaker._connect(), RedisClient)
    assert TOKEN not in repr(load(BOTH))


def test_the_real_client_is_given_its_limits() -> None:
    http = UpstashClient("http://127.0.0.1:1/", SecretStr(TOKEN))._redis._http
    assert http._retries == 0
    assert set(http._client.timeout.as_dict().values()) == {2.0}

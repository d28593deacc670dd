"""The WSGI app: authorises, hands commands on, and words the answers as Upstash does.

https://upstash.com/docs/redis/features/restapi; commands come in a body only, never in the path.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ANSWER_SECONDS = 5.0
MAX_REQUEST = 1024 * 1024
"""Bytes; plans of today take ten times as many, those of before took this."""
# They change the state of a connection, which here is anyone's.
_STATEFUL = {"AUTH", "CLIENT", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "QUIT", "RESET"} | {
    *("SELECT", "SHUTDOWN", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "WATCH", "UNWATCH")
}


class UpstashStandIn:
    """Upstash's REST API with one token, on the server at `redis_url`."""

    def __init__(self, redis_url: str, token: str) -> None:
        self._token = token.encode()
        self._redis: Any = Redis.from_url(
            redis_url,
            protocol=2,  # the newer one answers with maps, which REST has not
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis.response_callbacks.clear()  # the server's own answers are wanted

    def close(self) -> None:
        """Lets go of the server."""
        self._redis.close()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        body, status = self._answer(Request(environ))
        response = Response(json.dumps(body), status, content_type="application/json")
        return response(environ, start)

    def _answer(self, request: Request) -> tuple[Any, int]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else request.args.get("_token", "")
        if not hmac.compare_digest(given.encode(), self._token):
            return {"error": "Unauthorized"}, 401
        if request.method != "POST":
            return {"error": "ERR this stand-in takes POST only"}, 405
        base64 = request.headers.get("Upstash-Encoding") == "base64"
        if (size := len(request.get_data())) > MAX_REQUEST:
            said = f"ERR max request size exceeded. Limit: {MAX_REQUEST} bytes, Actual: {size}"
            return {"error": said}, 400
        try:
            sent = json.loads(request.get_data())
            if request.path == "/":
                return _result(self._redis.execute_command(*_command(sent)), base64), 200
            if request.path not in ("/pipeline", "/multi-exec"):
                raise ResponseError("ERR this stand-in takes commands in the body only")
            if not isinstance(sent, list) or not sent:
                raise ResponseError("ERR failed to parse pipeline request")
            pipe = self._redis.pipeline(transaction=request.path == "/multi-exec")
            for command in map(_command, sent):
                pipe.execute_command(*command)
            return [_result(answer, base64) for answer in pipe.execute(raise_on_error=False)], 200
        except ResponseError as refusal:
            return {"error": str(refusal)}, 400
        except (ValueError, RecursionError):
            return {"error": "ERR failed to parse command"}, 400
        except RedisError as failure:
            return {"error": f"ERR {type(failure).__name__}"}, 500


def _command(words: Any) -> list[Any]:
    fit = isinstance(words, list) and all(type(word) in (str, int, float) for word in words)
    if not fit or not words or not isinstance(words[0], str):
        raise ResponseError("ERR failed to parse command")
    if words[0].upper() in _STATEFUL:
        raise ResponseError(f"ERR Command is not available: '{words[0]}'")
    return list(words)


def _result(answer: Any, base64: bool) -> dict[str, Any]:
    if isinstance(answer, Exception):
        return {"error": str(answer)}
    return {"result": _shown(answer, base64)}


def _shown(answer: Any, base64: bool) -> Any:
    if isinstance(answer, list):
        return [_shown(one, base64) for one in answer]
    if not isinstance(answer, bytes):
        return answer
    plain = not base64 or answer == b"OK"
    return answer.decode(errors="replace") if plain else b64encode(answer).decode()

"""A stand-in for Upstash Redis as the product's client uses it: one command a request, in its body.

Its answers are worded as https://upstash.com/docs/redis/features/restapi has them.
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


class UpstashStandIn:
    """Upstash's REST API with one token, on the server at `redis_url`."""

    def __init__(self, redis_url: str, token: str) -> None:
        self._token = f"Bearer {token}".encode()
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
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self._token):
            return {"error": "Unauthorized"}, 401
        if (size := len(request.get_data())) > MAX_REQUEST:
            said = f"ERR max request size exceeded. Limit: {MAX_REQUEST} bytes, Actual: {size}"
            return {"error": said}, 400
        try:
            answer = self._redis.execute_command(*_command(request.get_data()))
            return {"result": _shown(answer)}, 200
        except ResponseError as refusal:
            return {"error": str(refusal)}, 400
        except RedisError as failure:
            return {"error": f"ERR {type(failure).__name__}"}, 500


def _command(body: bytes) -> list[Any]:
    try:
        words = json.loads(body)
    except (ValueError, RecursionError):
        words = None
    fit = isinstance(words, list) and all(type(word) in (str, int, float) for word in words)
    if not fit or not words:
        raise ResponseError("ERR failed to parse command")
    return list(words)


def _shown(answer: Any) -> Any:
    """As it is where `Upstash-Encoding: base64` is asked for, which the client does."""
    if isinstance(answer, list):
        return [_shown(one) for one in answer]
    if not isinstance(answer, bytes):
        return answer
    return "OK" if answer == b"OK" else b64encode(answer).decode()

"""The stand-in: its HTTP edge, its clock, and its signatures."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from app.local.qstash import params
from app.local.qstash.delivery import Courier
from app.local.qstash.store import Store
from app.local.shapes import Shape, loads, shaped
from app.local.standin import MEMORY, StandIn

MAX_BATCH = 100
TOKEN_SECONDS = 300
TICK_SECONDS = 0.02
_HIDDEN = ("body64", "deduplicationId", "retried")


class QStashStandIn(StandIn):
    """A server that speaks QStash's protocol. What it knows is in `data`.

    `gap_scale` multiplies the gaps between attempts, `clock` gives Unix seconds.
    """

    def __init__(
        self,
        token: str,
        signing_key: str,
        data: str = MEMORY,
        *,
        gap_scale: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.store = Store(data, lambda: self.clock(), self.times)
        self.token = token
        self.signing_key = signing_key
        self._courier = Courier(self.store, self.sign, gap_scale)
        self.app = _create_app(self)

    def times(self, at: float) -> list[float]:
        """When to deliver what is due at `at`, Unix seconds: once, on time, but on a bad day."""
        return [at]

    def work(self) -> Sequence[Callable[[], None]]:
        return (self._keep_time,)

    def close(self) -> None:
        """Stop delivering; what was under way is delivered again by whoever serves `data` next."""
        self._courier.close()
        self.store.close()

    def sign(self, url: str, body: bytes, **claims: Any) -> str:
        """The signature of a delivery; `claims` stand in for its own."""
        now = int(self.clock())
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
        own = {"iss": "Upstash", "sub": url, "exp": now + TOKEN_SECONDS, "nbf": now, "iat": now}
        own |= {"jti": f"jwt_{uuid.uuid4().hex}", "body": digest}
        return jwt.encode({**own, **claims}, self.signing_key, algorithm="HS256")

    def _keep_time(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            now = self.clock()
            self.store.tick(now)
            self._courier.send_due(now)


class _Batched(Shape):
    """One message of a batch."""

    destination: str
    headers: dict[str, str]
    body: str | None = None
    queue: None = None


class _Cancelled(Shape):
    """What a cancellation names; without ids the real service cancels every message."""

    messageIds: list[str]


def _shown(doc: dict[str, Any]) -> dict[str, Any]:
    """A message as the service shows it: no empty header, its body as text."""
    shown = {name: value for name, value in doc.items() if name not in _HIDDEN and value != {}}
    return {**shown, "body": base64.b64decode(doc["body64"]).decode(errors="replace")}


def _schedule(next_at: float, last: float | None, doc: dict[str, Any]) -> dict[str, Any]:
    shown = _shown(doc) | {"isPaused": False, "nextScheduleTime": int(next_at * 1000)}
    shown |= {"destination": shown.pop("url"), "retries": shown.pop("maxRetries")}
    return shown if last is None else shown | {"lastScheduleTime": int(last * 1000)}


def _create_app(standin: QStashStandIn) -> Flask:
    app, store = Flask(__name__), standin.store
    app.url_map.merge_slashes = False  # destinations are URLs, as they are

    @app.before_request
    def authorise() -> None:
        if request.headers.get("Authorization") != f"Bearer {standin.token}":
            abort(401, "unauthorized: invalid token")

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(ValueError)
    def invalid(error: ValueError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @app.post("/v2/batch")
    def batch() -> Response:
        sent = loads(request.get_data())
        if not isinstance(sent, list) or not 0 < len(sent) <= MAX_BATCH:
            raise ValueError(f"a batch is a list of 1 to {MAX_BATCH} messages")
        docs = []
        for one in (shaped(_Batched, one) for one in sent):
            body = (one.body or "").encode()
            docs.append(params.message(one.destination, one.headers, body, store.clock()))
        answers = [store.accept(doc) for doc in docs]
        return jsonify(answers)

    @app.get("/v2/keys")
    def signing_keys() -> Response:
        return jsonify(current=standin.signing_key, next=standin.signing_key)

    @app.get("/v2/messages/<message_id>")
    def get_message(message_id: str) -> Response:
        doc = store.get(message_id) or abort(404, f"message {message_id} not found")
        return jsonify(_shown(doc))

    @app.delete("/v2/messages")
    def cancel() -> Response:
        ids = shaped(_Cancelled, loads(request.get_data())).messageIds
        return jsonify(cancelled=store.cancel(ids))

    @app.post("/v2/schedules/<path:destination>")
    def create_schedule(destination: str) -> tuple[Response, int]:
        # What the client's HTTP library adds is not the message's.
        mine = {n: v for n, v in request.headers if n.lower().startswith(("upstash-", "content-t"))}
        body, now = request.get_data(), store.clock()
        doc = params.message(destination, mine, body, now, params.Schedule)
        store.plan(doc, now)
        return jsonify(scheduleId=doc["scheduleId"]), 201

    @app.get("/v2/schedules")
    def list_schedules() -> Response:
        return jsonify([_schedule(*schedule) for schedule in store.schedules()])

    @app.delete("/v2/schedules/<schedule_id>")
    def delete_schedule(schedule_id: str) -> tuple[str, int]:
        return ("", 202) if store.unschedule(schedule_id) else abort(404, "schedule not found")

    @app.get("/v2/dlq")
    def list_dead() -> Response:
        asked = request.args.to_dict()
        count, message_id = int(asked.pop("count", MAX_BATCH)), asked.pop("messageId", None)
        if asked:
            raise ValueError(f"{', '.join(asked)}: the stand-in does not do this")
        dead = [one for one in store.kept(dead=True) if message_id in (None, one["messageId"])]
        return jsonify(messages=[_shown(doc) for doc in dead[:count]])

    return app

"""The HTTP edge: as much of the REST API as this product calls, and what waits."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from app.local.qstash import params
from app.local.qstash.messages import Messages
from app.local.shapes import Shape, loads, shaped

MAX_BATCH = 100
_HIDDEN = ("body64", "deduplicationId", "retried", "message")


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
    """A message as the service shows it: no empty fields, its body as text."""
    shown = {n: v for n, v in doc.items() if n not in _HIDDEN and v not in (None, {})}
    return {**shown, "body": base64.b64decode(doc["body64"]).decode(errors="replace")}


def _schedule(doc: dict[str, Any]) -> dict[str, Any]:
    message = _shown(doc["message"])
    message |= {"destination": message.pop("url"), "retries": message.pop("maxRetries")}
    del message["notBefore"]
    return {**message, **{name: value for name, value in doc.items() if name != "message"}}


def create_app(messages: Messages, token: str, key: Callable[[], str]) -> Flask:
    """The stand-in's WSGI app; it holds no state of its own."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # destinations are URLs, as they are
    app.config["MAX_CONTENT_LENGTH"] = 16 * params.MAX_BODY
    store, luck = messages.store, messages.luck

    @app.before_request
    def authorise() -> None:
        wanted = f"Bearer {token}".encode()
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), wanted):
            abort(401, "unauthorized: invalid token")
        luck.refuse()

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
        docs = [_message(shaped(_Batched, one)) for one in sent]
        answers = [messages.accept(doc) for doc in docs]
        luck.lose_answer()
        return jsonify(answers)

    def _message(one: _Batched) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in one.headers.items()}
        kind = headers.pop("content-type", None)
        if odd := [name for name in headers if not name.startswith("upstash-")]:
            raise ValueError(f"header {odd[0]}: the stand-in does not do this")
        body = (one.body or "").encode()
        return params.message(one.destination, params.split(headers), kind, body, messages.clock())

    @app.get("/v2/keys")
    def signing_keys() -> Response:
        return jsonify(current=key(), next=key())

    @app.get("/v2/messages/<message_id>")
    def get_message(message_id: str) -> Response:
        doc = store.get(message_id)
        return (
            abort(404, f"message {message_id} not found") if doc is None else jsonify(_shown(doc))
        )

    @app.delete("/v2/messages")
    def cancel() -> Response:
        ids = shaped(_Cancelled, loads(request.get_data())).messageIds
        return jsonify(cancelled=store.cancel(ids))

    @app.post("/v2/schedules/<path:destination>")
    def create_schedule(destination: str) -> tuple[Response, int]:
        now, said = messages.clock(), params.split(dict(request.headers))
        own = {name: said.pop(name) for name in ("schedule_id", "cron") if name in said}
        checked = shaped(params.Schedule, {"schedule_id": f"scd_{uuid4().hex}", **own})
        kind = request.headers.get("Content-Type")
        doc = {
            "scheduleId": checked.schedule_id,
            "cron": checked.cron,
            "createdAt": int(now * 1000),
            "isPaused": False,
            "message": params.message(destination, said, kind, request.get_data(), now),
        }
        messages.plan(doc, now)
        luck.lose_answer()
        return jsonify(scheduleId=checked.schedule_id), 201

    @app.get("/v2/schedules")
    def list_schedules() -> Response:
        return jsonify([_schedule(doc) for doc in store.schedules()])

    @app.delete("/v2/schedules/<schedule_id>")
    def delete_schedule(schedule_id: str) -> tuple[str, int]:
        if not store.remove_schedule(schedule_id):
            abort(404, f"schedule {schedule_id} not found")
        return "", 202

    @app.get("/v2/dlq")
    def list_dead() -> Response:
        asked = request.args.to_dict()
        count, message_id = int(asked.pop("count", MAX_BATCH)), asked.pop("messageId", None)
        if asked:
            raise ValueError(f"{', '.join(asked)}: the stand-in does not do this")
        dead = [one for one in store.dead() if message_id in (None, one["messageId"])]
        return jsonify(messages=[_shown(doc) for doc in dead[:count]])

    return app

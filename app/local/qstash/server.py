"""The HTTP edge: as much of the REST API as this product calls."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from app.local.qstash import params
from app.local.qstash.store import Store
from app.local.shapes import Shape, loads, shaped
from app.local.standin import Days

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


def create_app(store: Store, token: str, key: Callable[[], str], days: Days) -> Flask:
    """The stand-in's WSGI app; it holds no state of its own."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # destinations are URLs, as they are

    @app.before_request
    def authorise() -> None:
        given, wanted = request.headers.get("Authorization", ""), f"Bearer {token}"
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            abort(401, "unauthorized: invalid token")
        days.refuse()

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
        days.lose_answer()
        return jsonify(answers)

    @app.get("/v2/keys")
    def signing_keys() -> Response:
        return jsonify(current=key(), next=key())

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
        given = {"schedule_id": f"scd_{uuid4().hex}", "cron": ""}
        for name in given:
            given[name] = mine.pop(f"Upstash-{name.title().replace('_', '-')}", given[name])
        checked = shaped(params.Schedule, given)
        doc = {
            "scheduleId": checked.schedule_id,
            "cron": checked.cron,
            "createdAt": int(store.clock() * 1000),
            "isPaused": False,
            "message": params.message(destination, mine, request.get_data(), store.clock()),
        }
        store.plan(doc, store.clock())
        days.lose_answer()
        return jsonify(scheduleId=checked.schedule_id), 201

    @app.get("/v2/schedules")
    def list_schedules() -> Response:
        return jsonify([_schedule(doc) for doc in store.schedules()])

    @app.delete("/v2/schedules/<schedule_id>")
    def delete_schedule(schedule_id: str) -> tuple[str, int]:
        return ("", 202) if store.unschedule(schedule_id) else abort(404, "schedule not found")

    @app.get("/v2/dlq")
    def list_dead() -> Response:
        asked = request.args.to_dict()
        count, message_id = int(asked.pop("count", MAX_BATCH)), asked.pop("messageId", None)
        if asked:
            raise ValueError(f"{', '.join(asked)}: the stand-in does not do this")
        dead = [one for one in store.dead() if message_id in (None, one["messageId"])]
        return jsonify(messages=[_shown(doc) for doc in dead[:count]])

    return app

"""The HTTP edge: publishing, messages, schedules, the dead letter queue, and its own controls."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from app.local.qstash import params
from app.local.qstash.params import Refused
from app.local.qstash.store import DEAD

if TYPE_CHECKING:
    from app.local.qstash.standin import QStashStandIn

MAX_LISTED = 100
_HIDDEN = ("body64", "deduplicationId", "retried", "message")


def _shown(doc: dict[str, Any]) -> dict[str, Any]:
    """A message as the service shows it: no empty fields, its body as text where it is text."""
    shown = {n: v for n, v in doc.items() if n not in _HIDDEN and v not in (None, {})}
    raw = base64.b64decode(doc["body64"])
    try:
        return {**shown, "body": raw.decode()}
    except UnicodeDecodeError:
        return {**shown, "bodyBase64": doc["body64"]}


def _schedule(doc: dict[str, Any]) -> dict[str, Any]:
    message = _shown(doc["message"])
    message |= {"destination": message.pop("url"), "retries": message.pop("maxRetries")}
    del message["notBefore"]
    return {**message, **{name: value for name, value in doc.items() if name != "message"}}


def create_app(standin: QStashStandIn) -> Flask:
    """The stand-in's WSGI app; it holds no state of its own."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # destinations are URLs, as they are
    app.config["MAX_CONTENT_LENGTH"] = 16 * params.MAX_BODY
    store, now = standin.store, standin.clock

    @app.before_request
    def authorise() -> None:
        wanted = f"Bearer {standin.token}".encode()
        if not request.path.startswith("/v2/"):
            return
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), wanted):
            abort(401, "unauthorized: invalid token")
        if standin.strikes("refuse"):
            abort(503, "refused on demand")

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(Refused)
    def invalid(error: Refused) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    def taken(answer: Any, status: int) -> tuple[Response, int]:
        """The answer to what was accepted, unless it is a bad day."""
        standin.lose_answer()
        return jsonify(answer), status

    def url_of(destination: str) -> str:
        query = request.query_string.decode()
        return f"{destination}?{query}" if query else destination

    def publish(url: str, queue: str | None = None) -> tuple[Response, int]:
        doc = params.message(url, dict(request.headers), request.get_data(), now())
        if queue is not None and ("flowControlKey" in doc or doc["notBefore"] > doc["createdAt"]):
            raise Refused("a queue takes neither a delay nor flow control")
        answer = standin.take({**doc, "queueName": params.named(queue)})
        return taken(answer, 202 if "deduplicated" in answer else 201)

    @app.post("/v2/publish/<path:destination>")
    def publish_one(destination: str) -> tuple[Response, int]:
        return publish(url_of(destination))

    @app.post("/v2/enqueue/<queue>/<path:destination>")
    def enqueue(queue: str, destination: str) -> tuple[Response, int]:
        return publish(url_of(destination), queue)

    @app.post("/v2/batch")
    def batch() -> tuple[Response, int]:
        sent = request.get_json(force=True)
        if not isinstance(sent, list) or not 0 < len(sent) <= 100:
            raise Refused("a batch is a list of 1 to 100 messages")
        docs = []
        for one in sent:
            if not isinstance(one, dict) or not isinstance(one.get("destination"), str):
                raise Refused("a message of a batch has no destination")
            body = (one.get("body") or "").encode()
            doc = params.message(one["destination"], one.get("headers") or {}, body, now())
            docs.append({**doc, "queueName": params.named(one.get("queue"))})
        return taken([standin.take(doc) for doc in docs], 200)

    @app.get("/v2/keys")
    def keys() -> Response:
        return jsonify(current=standin.signing_key, next=standin.signing_key)

    @app.get("/v2/messages/<message_id>")
    def get_message(message_id: str) -> Response:
        doc = store.get(message_id)
        if doc is None:
            abort(404, f"message {message_id} not found")
        return jsonify(_shown(doc))

    @app.delete("/v2/messages/<message_id>")
    def cancel(message_id: str) -> tuple[str, int]:
        if store.cancel([message_id], now()) == 0:
            abort(404, f"message {message_id} not found")
        return "", 202

    @app.delete("/v2/messages")
    def cancel_many() -> Response:
        ids = (request.get_json(silent=True) or {}).get("messageIds")
        every = [doc["messageId"] for doc in store.waiting()]
        return jsonify(cancelled=store.cancel(every if ids is None else ids, now()))

    def the_schedule(schedule_id: str) -> dict[str, Any]:
        found = [doc for doc in store.schedules() if doc["scheduleId"] == schedule_id]
        return found[0] if found else abort(404, f"schedule {schedule_id} not found")

    @app.post("/v2/schedules/<path:destination>")
    def create_schedule(destination: str) -> tuple[Response, int]:
        message = params.message(
            url_of(destination), dict(request.headers), request.get_data(), now()
        )
        given = params.named(request.headers.get("Upstash-Schedule-Id"))
        schedule_id = given or f"scd_{uuid4().hex}"
        doc = {
            "scheduleId": schedule_id,
            "cron": params.cron(request.headers.get("Upstash-Cron", "")),
            "createdAt": message["createdAt"],
            "isPaused": False,
            "message": message,
        }
        standin.plan(doc, now())
        return taken({"scheduleId": schedule_id}, 201)

    @app.get("/v2/schedules")
    def list_schedules() -> Response:
        return jsonify([_schedule(doc) for doc in store.schedules()])

    @app.get("/v2/schedules/<schedule_id>")
    def get_schedule(schedule_id: str) -> Response:
        return jsonify(_schedule(the_schedule(schedule_id)))

    @app.delete("/v2/schedules/<schedule_id>")
    def delete_schedule(schedule_id: str) -> tuple[str, int]:
        the_schedule(schedule_id)
        store.remove_schedule(schedule_id)
        return "", 202

    @app.route("/v2/schedules/<schedule_id>/<any(pause, resume):what>", methods=["PATCH", "POST"])
    def pause(schedule_id: str, what: str) -> tuple[str, int]:
        doc = the_schedule(schedule_id)
        del doc["nextScheduleTime"]
        standin.plan({**doc, "isPaused": what == "pause"}, now())
        return "", 200

    @app.get("/v2/dlq")
    def list_dead() -> Response:
        asked = request.args.to_dict()
        count = min(MAX_LISTED, int(asked.pop("count", str(MAX_LISTED))))
        found = store.kept(DEAD, int(asked.pop("cursor", "0")))
        same = [(n, d) for n, d in found if all(str(d.get(k)) == v for k, v in asked.items())]
        answer: dict[str, Any] = {"messages": [_shown(doc) for _, doc in same[:count]]}
        if len(same) > count:
            answer["cursor"] = str(same[count - 1][0])
        return jsonify(answer)

    def the_dead(dlq_id: str) -> tuple[int, dict[str, Any]]:
        found = [(seq, doc) for seq, doc in store.kept(DEAD) if doc["dlqId"] == dlq_id]
        return found[0] if found else abort(404, f"dlq message {dlq_id} not found")

    @app.get("/v2/dlq/<dlq_id>")
    def get_dead(dlq_id: str) -> Response:
        return jsonify(_shown(the_dead(dlq_id)[1]))

    @app.delete("/v2/dlq/<dlq_id>")
    def delete_dead(dlq_id: str) -> tuple[str, int]:
        store.remove(the_dead(dlq_id)[0])
        return "", 200

    @app.post("/v2/dlq/retry/<dlq_id>")
    def retry_dead(dlq_id: str) -> Response:
        seq, doc = the_dead(dlq_id)
        kept = {n: v for n, v in doc.items() if not n.startswith("response") and n != "dlqId"}
        store.remove(seq)
        at = int(now() * 1000)
        again = {**kept, "retried": 0, "deduplicationId": None, "createdAt": at, "notBefore": at}
        return jsonify(standin.take(again))

    @app.get("/v2/events")
    @app.get("/v2/logs")
    def events() -> Response:
        asked = request.args
        wanted = {n: asked[n] for n in ("messageId", "state", "label", "scheduleId") if n in asked}
        found = [e for e in store.events() if all(str(e.get(k)) == v for k, v in wanted.items())]
        return jsonify(events=found[: min(1000, asked.get("count", 1000, type=int))])

    @app.get("/_standin/waiting")
    def waiting() -> Response:
        return jsonify([_shown(doc) for doc in store.waiting()])

    standin.mount_faults(app)
    return app

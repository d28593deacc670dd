"""The HTTP edge: event API, registration and REST, as far as the SDK and this product call them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from app.local import shapes
from app.local.inngest import events
from app.local.inngest.engine import Engine
from app.local.inngest.functions import parse_registration
from app.local.inngest.ids import iso, named_uuid
from app.local.inngest.keys import Keys
from app.local.inngest.runs import Run

# Measured at the real server, which caches its answers by URL, query included.
RUNS_CACHE_SECONDS = 15.0
UNLISTED_SECONDS = 0.2
SECONDS_PER_RUN_KEPT = 0.014 / 9000


def _json(value: object, status: int = 200) -> Response:
    """JSON under text/plain, which is what the real server says it is."""
    return Response(shapes.dumps(value), status, mimetype="text/plain")


def create_app(
    engine: Engine, keys: Keys, clock: Callable[[], float], times: Callable[[float], list[float]]
) -> Flask:
    """The stand-in's WSGI app. `times` says when to act on an event."""
    app, lock = Flask(__name__), engine.lock
    looking = threading.Lock()
    cache: dict[str, tuple[float, Any]] = {}

    @app.before_request
    def check_key() -> None:
        path, given = request.path, request.headers.get("authorization", "")
        if path.startswith(("/fn/", "/v0/", "/v1/")) and not keys.admits(given):
            abort(401, "Unauthorized")

    @app.after_request
    def name_server(response: Response) -> Response:
        response.headers["x-inngest-server-kind"] = keys.server_kind
        return response

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        return _json({"error": error.description, "status": error.code}, error.code or 500)

    @app.post("/e/<key>")
    def send(key: str) -> Response:
        if not keys.admits_event(key):
            abort(401, "Event key not found")
        seed = request.headers.get("x-inngest-event-id-seed")
        with lock:
            accepted, error = events.accept(request.get_data(), seed, clock())
            for event in accepted:
                now = clock()
                engine.receive(event, now, copies=len(times(now)))
        ids = [event.id for event in accepted]
        if error is not None:
            # As there: where it took none it names one that is empty.
            return _json({"ids": ids or [""], "status": 400, "error": error}, 400)
        return _json({"ids": ids, "status": 200})

    @app.post("/fn/register")
    def register() -> Response:
        kind = keys.server_kind
        expected = request.headers.get("x-inngest-expected-server-kind", kind)
        if expected != kind:
            abort(400, f"Expected server kind {kind}, got {expected}")
        try:
            registration = shapes.loads(request.get_data())
            name, functions = parse_registration(registration)
        except ValueError as error:
            abort(400, str(error))
        with lock:
            modified = engine.register(name, functions, clock())
            engine.history.save_app(name, registration)
        app_id, sync_id = named_uuid(name), named_uuid(f"{name} {functions}")
        return _json({"ok": True, "modified": modified, "sync_id": sync_id, "app_id": app_id})

    @app.get("/v1/events/<event_id>/runs")
    def event_runs(event_id: str) -> Response:
        now = clock()
        with looking:
            for url in [url for url, (until, _) in cache.items() if until <= now]:
                del cache[url]
            if request.full_path not in cache:
                cache[request.full_path] = (now + RUNS_CACHE_SECONDS, look(event_id, now))
            until, value = cache[request.full_path]
        dated = {"fetched_at": iso(until - RUNS_CACHE_SECONDS), "cached_until": iso(until)}
        return _json({"data": value, "metadata": dated})

    def look(event_id: str, now: float) -> list[dict[str, Any]]:
        """The event's runs as the real server lists them: late, slowly, and too early as done."""
        time.sleep(SECONDS_PER_RUN_KEPT * len(engine.runs))
        with lock:
            runs = engine.runs_of_event.get(event_id, [])
            listed = [run for run in runs if now - run.created_at >= UNLISTED_SECONDS]
            early = [{"status": "Completed"} if r.steps and not r.ended else {} for r in listed]
            return [run.as_rest() | too for run, too in zip(listed, early, strict=True)]

    @app.delete("/v1/runs/<run_id>")
    def cancel_run(run_id: str) -> Response:
        with lock:
            run = engine.runs.get(run_id)
            if run is None:
                # So it answers: 200, and the error in the body.
                return _json({"error": "function run not found", "status": 404})
            if not run.ended:
                engine.end(run, "Cancelled", None, clock())
            return _json({"data": run.as_rest()})

    def the_run(run_id: str) -> Run:
        return engine.runs.get(run_id) or abort(404, "function run not found")

    @app.get("/v0/runs/<run_id>/batch")
    def batch(run_id: str) -> Response:
        with lock:
            return _json([the_run(run_id).event.body])

    @app.get("/v0/runs/<run_id>/actions")
    def actions(run_id: str) -> Response:
        with lock:
            return _json(the_run(run_id).steps)

    @app.get("/v1/apps/<name>/functions")
    def app_functions(name: str) -> Response:
        with lock:
            ids = [id for id in sorted(engine.functions) if id.startswith(f"{name}-")]
            # As there: `id` is what the SDK calls it.
            return _json([{"internal_id": named_uuid(id), "id": id, "name": id} for id in ids])

    return app

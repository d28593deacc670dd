"""The HTTP edge: event API, registration, REST, and the stand-in's own controls."""

import hmac
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from app.local.inngest import codec, events
from app.local.inngest.functions import parse_registration
from app.local.inngest.ids import iso, named_uuid
from app.local.inngest.runs import Run

if TYPE_CHECKING:
    from app.local.inngest.standin import InngestStandIn

# Measured: these answers are cached by URL, query included.
RUNS_CACHE_SECONDS = 15.0
RUN_CACHE_SECONDS = 3.0


def _json(value: object, status: int = 200, mimetype: str = "application/json") -> Response:
    return Response(codec.dumps(value), status, mimetype=mimetype)


def _plain(value: object, status: int = 200) -> Response:
    """JSON under text/plain, which is what the real server says it is."""
    return _json(value, status, "text/plain")


def create_app(standin: "InngestStandIn") -> Flask:
    """The stand-in's WSGI app; it holds no state of its own but the REST cache."""
    app = Flask(__name__)
    engine, lock, clock = standin.engine, standin.lock, standin.clock
    cache: dict[str, tuple[float, Any]] = {}

    def cached(seconds: float, data: Any) -> Response:
        now = clock()
        for url in [url for url, (until, _) in cache.items() if until <= now]:
            del cache[url]
        until, value = cache.setdefault(request.full_path, (now + seconds, data))
        times = {"fetched_at": iso(until - seconds), "cached_until": iso(until)}
        return _json({"data": value, "metadata": times})

    def the_run(run_id: str) -> Run:
        run = engine.runs.get(run_id)
        if run is None:
            abort(404, "function run not found")
        return run

    @app.before_request
    def check_key() -> None:
        if request.path.startswith(("/fn/", "/v0/", "/v1/")) and standin.bearer is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), standin.bearer.encode()):
                abort(401, "Unauthorized")

    @app.after_request
    def name_server(response: Response) -> Response:
        response.headers["x-inngest-server-kind"] = standin.kind
        return response

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        return _plain({"error": error.description, "status": error.code}, error.code or 500)

    @app.post("/e/<key>")
    def send(key: str) -> Response:
        if standin.event_key not in (None, key):
            abort(401, "Event key not found")
        if standin.strikes("refuse"):
            abort(503, "refused on demand")
        seed = request.headers.get("x-inngest-event-id-seed")
        with lock:
            taken, error = events.accept(request.get_data(), engine.ids, seed, clock())
            for event in taken:
                if not standin.strikes("swallow"):
                    engine.receive(event, clock(), copies=2 if standin.strikes("double") else 1)
        standin.lose_answer()
        ids = [event.id for event in taken]
        if error is not None:
            return _plain({"ids": ids, "status": 400, "error": error}, 400)
        return _plain({"ids": ids, "status": 200})

    @app.post("/fn/register")
    def register() -> Response:
        expected = request.headers.get("x-inngest-expected-server-kind", standin.kind)
        if expected != standin.kind:
            abort(400, f"Expected server kind {standin.kind}, got {expected}")
        try:
            name, functions = parse_registration(codec.loads(request.get_data()))
        except ValueError as error:
            abort(400, str(error))
        with lock:
            modified = engine.register(name, functions, clock())
        app_id, sync_id = named_uuid(name), named_uuid(f"{name} {functions}")
        return _plain({"ok": True, "modified": modified, "sync_id": sync_id, "app_id": app_id})

    @app.get("/v1/events/<event_id>/runs")
    def event_runs(event_id: str) -> Response:
        with lock:
            runs = [engine.runs[one] for one in engine.runs_of_event.get(event_id, [])]
            # Measured too: here a run says "Completed" once it has a step; trust `ended_at`.
            early = {"status": "Completed"}
            shown = [r.as_rest() | (early if r.steps and not r.ended else {}) for r in runs]
            return cached(RUNS_CACHE_SECONDS, shown)

    @app.get("/v1/runs/<run_id>")
    def show_run(run_id: str) -> Response:
        with lock:
            return cached(RUN_CACHE_SECONDS, the_run(run_id).as_rest())

    @app.delete("/v1/runs/<run_id>")
    def cancel_run(run_id: str) -> Response:
        with lock:
            run = the_run(run_id)
            if run.ended:
                abort(409, "function run has already ended")
            engine.end(run, "Cancelled", None, clock())
        return Response(status=204)

    @app.get("/v0/runs/<run_id>/<any(batch, actions):what>")
    def state(run_id: str, what: str) -> Response:
        with lock:
            run = the_run(run_id)
            return _plain([run.event.body] if what == "batch" else run.steps)

    @app.get("/v1/apps/<name>/functions")
    def app_functions(name: str) -> Response:
        with lock:
            ids = [id for id in sorted(engine.functions) if id.startswith(f"{name}-")]
            # As there: `id` is what the SDK calls it.
            return _plain([{"internal_id": named_uuid(id), "id": id, "name": id} for id in ids])

    @app.get("/dev")
    def summary() -> Response:
        if standin.kind != "dev":
            abort(404)
        with lock:
            return _json({"functions": [{"slug": id} for id in sorted(engine.functions)]})

    @app.get("/_standin/runs")
    def list_runs() -> Response:
        return _json(standin.runs())

    standin.mount_faults(app)

    @app.post("/_standin/sync")
    def sync() -> Response:
        return _json(standin.sync())

    return app

"""The HTTP edge: event API, registration, REST, and the stand-in's own controls."""

import hmac
import time
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, abort, g, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from app.local.inngest import codec, events
from app.local.inngest.faults import Faults
from app.local.inngest.functions import RegistrationError, parse_registration
from app.local.inngest.ids import iso
from app.local.inngest.runs import Run, RunStatus
from app.local.serving import drop_connection

if TYPE_CHECKING:
    from app.local.inngest.standin import InngestStandIn

# Measured: these answers are cached by URL, so who polls must add `?_=<time>`.
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
        return _json(
            {
                "data": value,
                "metadata": {"fetched_at": iso(until - seconds), "cached_until": iso(until)},
            }
        )

    def the_run(run_id: str) -> Run:
        run = engine.runs.get(run_id)
        if run is None:
            abort(404, "function run not found")
        return run

    @app.before_request
    def check_key() -> None:
        g.now = clock()
        guarded = request.path.startswith(("/fn/", "/v0/", "/v1/"))
        if guarded and standin.bearer is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), standin.bearer.encode()):
                abort(401, "Unauthorized")
        if request.path.startswith("/_standin/") and request.remote_addr not in (
            "127.0.0.1",
            "::1",
        ):
            abort(403, "loopback only")

    @app.after_request
    def name_server(response: Response) -> Response:
        response.headers["x-inngest-server-kind"] = standin.kind
        return response

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        return _plain({"error": error.description, "status": error.code}, error.code or 500)

    @app.post("/e/<key>")
    def send(key: str) -> Response:
        if standin.event_key is not None and not hmac.compare_digest(key, standin.event_key):
            abort(401, "Event key not found")
        dice = standin.dice
        if dice.hit("refuse"):
            abort(503, "refused on demand")
        with lock:
            seed = request.headers.get("x-inngest-event-id-seed")
            taken, error = events.accept(request.get_data(), engine.ids, seed, g.now)
            for event in taken:
                if not dice.hit("swallow"):
                    engine.receive(event, g.now, copies=2 if dice.hit("double") else 1)
        if dice.hit("drop"):
            time.sleep(dice.faults.hang)
            drop_connection(request.environ)
        if dice.hit("unknown_outcome"):
            abort(500, "failed on demand, after the events were taken")
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
        except (RegistrationError, ValueError) as error:
            abort(400, str(error))
        with lock:
            modified, sync_id = engine.register(name, functions, g.now)
        app_id = functions[0].app_id
        return _plain({"ok": True, "modified": modified, "sync_id": sync_id, "app_id": app_id})

    @app.get("/v1/events/<event_id>/runs")
    def event_runs(event_id: str) -> Response:
        with lock:
            runs = [engine.runs[one] for one in engine.runs_of_event.get(event_id, [])]
            # Measured too: here a run says "Completed" once it has a step; trust `ended_at`.
            early = {"status": RunStatus.COMPLETED}
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
            engine.end(run, RunStatus.CANCELLED, None, g.now)
        return Response(status=204)

    @app.get("/v0/runs/<run_id>/batch")
    def batch(run_id: str) -> Response:
        with lock:
            return _plain([the_run(run_id).event.body])

    @app.get("/v0/runs/<run_id>/actions")
    def actions(run_id: str) -> Response:
        with lock:
            return _plain(dict(the_run(run_id).steps))

    @app.get("/dev")
    def summary() -> Response:
        with lock:
            return _json({"functions": sorted(engine.functions), "active": len(engine.active)})

    @app.get("/_standin/runs")
    def list_runs() -> Response:
        return _json(standin.runs())

    @app.route("/_standin/faults", methods=["GET", "POST"])
    def faults() -> Response:
        if request.method == "POST":
            try:
                standin.dice.faults = Faults.model_validate_json(request.get_data())
            except ValidationError as error:
                abort(400, str(error))
        return _json(standin.dice.faults.model_dump())

    @app.post("/_standin/sync")
    def sync() -> Response:
        return _json(standin.sync())

    return app

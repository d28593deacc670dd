"""The Inngest stand-in against the real SDK, and its calls against recorded ones."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, Response, request

from app.local.inngest import codec
from app.local.inngest.functions import parse_registration
from app.local.inngest.standin import InngestStandIn
from app.local.serving import LoopbackServer, serve_in_thread
from tests.support.waiting import PATIENCE_SECONDS, until

with warnings.catch_warnings():
    # The SDK's own use of pydantic, at import.
    warnings.simplefilter("ignore", DeprecationWarning)
    import inngest
    import inngest.flask
    from inngest._internal.errors import SendEventsError

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "inngest_exchanges.json").read_text()
)
KEY = "0123456789abcdef" * 4
EVENT_KEY = "an-event-key"
QUIET = logging.getLogger("quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
Ctx = inngest.ContextSync
Defined = inngest.Function[Any]


class World:
    """One app with the real SDK, and the stand-in that drives it."""

    def __init__(self, signed: bool = False, **options: Any) -> None:
        self.wsgi = Flask("app")
        self.server = LoopbackServer(self.wsgi)
        self.app_url = f"{self.server.url}/api/inngest"
        keys: dict[str, Any] = {"event_key": EVENT_KEY, "signing_key": KEY} if signed else {}
        made: dict[str, Any] = {"apps": [self.app_url], "gap_scale": 0.001, "tick": 0.01, "seed": 1}
        self.standin = InngestStandIn(**(keys | made | options))
        self.url = self.standin.start()
        self.client = inngest.Inngest(
            app_id="try",
            api_base_url=self.url,
            event_api_base_url=self.url,
            is_production=signed,
            logger=QUIET,
            **keys,
        )
        self.calls: list[tuple[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.wsgi.before_request(self._record)

    def _record(self) -> None:
        body = request.get_json(silent=True)
        self.requests.append((request.full_path, dict(request.headers.items()), body))

    def serve(self, *functions: Defined) -> None:
        inngest.flask.serve(self.wsgi, self.client, list(functions))
        self.server.start()
        assert list(self.standin.sync().values()) == [None]

    def fn(self, fn_id: str, handler: Callable[[Ctx], Any], **options: Any) -> Defined:
        options.setdefault("trigger", inngest.TriggerEvent(event=f"demo.{fn_id}"))
        options.setdefault("retries", 0)
        return self.client.create_function(fn_id=fn_id, **options)(handler)

    def note(self, what: str, value: Any = None) -> None:
        self.calls.append((what, value))

    def noted(self, what: str) -> list[Any]:
        return [value for name, value in self.calls if name == what]

    def send(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> str:
        return self.client.send_sync(inngest.Event(name=name, data=data or {}, **more))[0]

    def runs(self, function: str) -> list[dict[str, Any]]:
        return [r for r in self.standin.runs() if r["function"] == f"try-{function}"]

    def done(self, function: str, count: int = 1) -> list[dict[str, Any]]:
        """The function's runs, once there are `count` and all have ended."""

        def ended() -> list[dict[str, Any]] | None:
            runs = self.runs(function)
            return runs if len(runs) >= count and all(r["ended_at"] for r in runs) else None

        return list(until(ended) or ())

    def result(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Send `demo.<name>` and wait for the function's run."""
        self.send(f"demo.{name}", data, **more)
        return self.done(name)[0]

    def stop(self) -> None:
        self.standin.stop()
        self.server.stop()
        self.client._http_client._http_client_sync.close()


@contextmanager
def world(signed: bool = False, **options: Any) -> Iterator[World]:
    """A world for the length of a block."""
    one = World(signed, **options)
    try:
        yield one
    finally:
        one.stop()


def raising(error: Exception) -> Callable[[Ctx], Any]:
    def handler(ctx: Ctx) -> Any:
        raise error

    return handler


# --- the recorded exchanges ------------------------------------------------------------------


def like_the_recorded(w: World) -> list[Defined]:
    """The functions that the recordings were made with."""

    def three(ctx: Ctx) -> Any:
        values = [ctx.step.run(name, partial(int, n)) for n, name in ((1, "a"), (2, "b"), (3, "c"))]
        return {"sum": sum(values)}

    def flaky(ctx: Ctx) -> Any:
        if ctx.attempt < 2:
            raise ValueError(f"boom {ctx.attempt}")
        return {"attempt": ctx.attempt}

    def flakystep(ctx: Ctx) -> Any:
        return ctx.step.run("s", lambda: flaky(ctx)["attempt"])

    def retryafter(ctx: Ctx) -> Any:
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("later", timedelta(milliseconds=300))
        w.note("retried", datetime.now(UTC))

    def par(ctx: Ctx) -> Any:
        return ctx.group.parallel(
            tuple(partial(ctx.step.run, f"p{n}", partial(int, n)) for n in (1, 2, 3))
        )

    never = raising(inngest.NonRetriableError("never"))
    return [
        w.fn("three", three, trigger=inngest.TriggerEvent(event="demo.run")),
        w.fn("flaky", flaky, retries=3),
        w.fn("flakystep", flakystep, retries=3),
        w.fn("retryafter", retryafter, retries=3),
        w.fn("nonretri", never, retries=3),
        w.fn("par", par),
        w.fn("wf", lambda ctx: ctx.step.sleep("nap", 50)),
        w.fn("cron", lambda ctx: None, trigger=inngest.TriggerCron(cron="* * * * *"), retries=None),
    ]


@pytest.fixture(scope="module", params=["dev", "signed self-hosted"])
def played(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world in which everything recorded has happened, over a full minute."""
    offset = [-time.time() % 60]
    with world(request.param != "dev", clock=lambda: time.time() + offset[0]) as w:
        w.serve(*like_the_recorded(w))
        # However long that took: the next full minute comes at once.
        offset[0] += 58.5 - (time.time() + offset[0]) % 60
        w.send("demo.wf", {"k": 1})
        w.send("demo.run", {"a": 1})
        for name in ("flaky", "flakystep", "retryafter", "nonretri", "par"):
            w.send(f"demo.{name}")
        for name in ("three", "flaky", "flakystep", "retryafter", "nonretri", "par", "wf"):
            w.done(name)
        w.done("cron")
        yield w


KEPT = frozenset(
    (
        *("attempt", "max_attempts", "version", "use_api", "name", "function_id", "current"),
        *("disable_immediate_execution", "step_id", "generation_id", "message", "cron"),
    )
)


def shape(value: Any, path: str = "") -> Any:
    """Keys and types only, except what the app itself decides."""
    if isinstance(value, dict):
        return {key: shape(one, f"{path}.{key}") for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one, path) for one in value]
    return value if path.rsplit(".", 1)[-1] in KEPT else type(value).__name__


def calls_to(w: World, function: str) -> list[tuple[str, dict[str, str], Any]]:
    return [one for one in w.requests if f"fnId=try-{function}&" in one[0]]


@pytest.mark.parametrize(
    ("function", "indexes"),
    [
        ("three", [0, 1, 2, 3]),
        ("flaky", [0, 1, 2]),
        ("flakystep", [0, 2]),
        ("retryafter", [0]),
        ("nonretri", [0]),
        ("wf", [0]),
        ("cron", [0]),
    ],
)
def test_calls_are_as_recorded(played: World, function: str, indexes: list[int]) -> None:
    signed = played.standin.kind == "cloud"
    recorded = [x for x in RECORDED if f"fnId=try-{function}&" in x["url"] and x["mode"] == "dev"]
    sent = calls_to(played, function)
    assert len(recorded) == len(indexes)
    for expected, (path, headers, body) in zip(recorded, [sent[i] for i in indexes], strict=True):
        assert path == expected["url"]
        assert shape(body) == shape(expected["request"])
        assert list(body["steps"]) == body["ctx"]["stack"]["stack"]
        assert body["ctx"]["stack"]["stack"] == expected["request"]["ctx"]["stack"]["stack"]
        assert_headers(headers, expected["request_headers"], signed)


def assert_headers(headers: dict[str, str], expected: dict[str, str], signed: bool) -> None:
    ours = {k.lower(): v for k, v in headers.items()}
    assert ("x-inngest-signature" in ours) is signed
    names = {name for name in ours if name.startswith("x-")} - {"x-inngest-signature"}
    assert names | {"user-agent"} == set(expected)
    for name in ("user-agent", "x-inngest-generation-id", "x-inngest-req-version"):
        assert ours[name] == expected[name]


def test_parallel_calls_are_as_recorded(played: World) -> None:
    recorded = [x for x in RECORDED if "fnId=try-par&" in x["url"]]
    first, *planned, last = calls_to(played, "par")
    assert len(planned) == 3
    for expected, (path, _, body) in zip(recorded, [first, planned[1], last], strict=True):
        got, wanted = body | {"steps": {}}, expected["request"] | {"steps": {}}
        got["ctx"]["stack"] = wanted["ctx"]["stack"] = {}
        assert shape(got) == shape(wanted)
        assert ("stepId=step" in path) is ("stepId=step" in expected["url"])
    assert len(last[2]["steps"]) == 3
    assert played.done("par")[0]["output"] == [1, 2, 3]


def test_registering_is_as_recorded(played: World) -> None:
    recorded = RECORDED[0]
    key = {"authorization": codec.bearer(KEY)} if played.standin.bearer else {}
    kind = {"x-inngest-expected-server-kind": played.standin.kind}
    body = recorded["request"] | {"appname": "other"}
    body = json.loads(json.dumps(body).replace("try-", "other-"))
    answers = []
    for _ in range(2):
        answers.append(
            requests.post(
                f"{played.url}/fn/register", json=body, headers=key | kind, timeout=PATIENCE_SECONDS
            )
        )
    for answer in answers:
        assert shape(answer.json()) == shape(recorded["response"])
        assert answer.headers["content-type"] == recorded["response_headers"]["content-type"]
        assert answer.headers["x-inngest-server-kind"] == played.standin.kind
    assert [a.json()["modified"] for a in answers] == [True, False]
    put = next(one for one in played.requests if one[2] and set(one[2]) == {"url"})
    assert put[1]["User-Agent"] == RECORDED[1]["request_headers"]["user-agent"]
    assert put[2]["url"] == played.app_url.replace("127.0.0.1", "localhost")


def test_results_of_what_was_recorded(played: World) -> None:
    ended = {r["function"]: (r["status"], r["output"], r["calls"]) for r in played.standin.runs()}
    assert ended["try-three"] == ("Completed", {"sum": 6}, 4)
    assert ended["try-flaky"] == ("Completed", {"attempt": 2}, 3)
    assert ended["try-flakystep"][:2] == ("Completed", 2)
    status, error, calls = ended["try-nonretri"]
    assert (status, error["message"], calls) == ("Failed", "never", 1)


def test_cron_fires_once_at_the_full_minute(played: World) -> None:
    runs = played.done("cron")
    event = runs[0]["event"]
    assert event["id"] == event["data"]["fireAt"] == event["data"]["scheduledAt"]
    assert event["ts"] % 60_000 == 0
    assert len(runs) == len({r["event"]["id"] for r in runs})


# --- execution -------------------------------------------------------------------------------


def test_a_finished_step_is_not_run_again_and_a_failed_one_is_counted_by_itself() -> None:
    with world() as w:

        def boom(ctx: Ctx) -> None:
            w.note("second", ctx.attempt)
            raise ZeroDivisionError

        def failing(ctx: Ctx) -> Any:
            ctx.step.run("first", lambda: w.note("first", ctx.attempt))
            try:
                ctx.step.run("second", boom, ctx)
            except inngest.StepError as error:
                return error.name
            return None

        w.serve(w.fn("failing", failing, retries=2))
        run = w.result("failing")
        assert (run["status"], run["output"]) == ("Completed", "ZeroDivisionError")
        assert w.noted("first") == [0]
        assert w.noted("second") == [0, 1, 2]


def failed(w: World, calls: int) -> bool:
    return w.runs("bad")[0]["calls"] == calls and not w.standin.engine._in_flight["try-bad"]


def test_retry_after_is_honoured_and_the_usual_gaps_grow() -> None:
    with world(gap_scale=1000) as w:
        moment = datetime.now(UTC) + timedelta(milliseconds=1500)

        def later(ctx: Ctx) -> Any:
            if ctx.attempt == 0:
                raise inngest.RetryAfterError("later", moment)
            return datetime.now(UTC).timestamp()

        w.serve(w.fn("later", later, retries=1))
        assert w.result("later")["output"] >= moment.timestamp() - 0.001
    now = [time.time() + 60]
    with world(clock=lambda: now[0], gap_scale=1) as w:
        w.serve(w.fn("bad", raising(ValueError("no")), retries=2))
        w.send("demo.bad")
        for calls, too_early, enough in ((1, 27, 8), (2, 42, 11)):
            until(partial(failed, w, calls))
            now[0] += too_early
            time.sleep(0.1)
            assert w.runs("bad")[0]["calls"] == calls
            now[0] += enough
        assert w.done("bad")[0]["status"] == "Failed"


@pytest.mark.parametrize(("ahead", "slept"), [(-5.0, 0), (0.45, 0), (0.55, 1), (2.45, 2)])
def test_a_sleep_is_rounded_to_whole_seconds(ahead: float, slept: int) -> None:
    now = [time.time() + 60]
    with world(clock=lambda: now[0], gap_scale=1) as w:
        until_then = datetime.fromtimestamp(now[0] + ahead, UTC)
        w.serve(w.fn("nap", lambda ctx: ctx.step.sleep_until("n", until_then)))
        w.send("demo.nap")
        if slept:
            until(lambda: any(run.pending for run in w.standin.engine.runs.values()))
            now[0] += slept - 0.1
            time.sleep(0.1)
            assert w.runs("nap")[0]["calls"] == 1
            now[0] += 0.1
        assert w.done("nap")[0]["calls"] == 2


@pytest.mark.parametrize("ahead", [-3.0, 0.0, 0.4, 0.99])
def test_a_retry_after_below_a_second_is_the_next_full_one(ahead: float) -> None:
    now = [1_900_000_000.5]
    with world(clock=lambda: now[0], gap_scale=1) as w:
        at = datetime.fromtimestamp(now[0] + ahead, UTC)
        w.serve(w.fn("bad", raising(inngest.RetryAfterError("later", at)), retries=1))
        w.send("demo.bad")
        until(partial(failed, w, 1))
        now[0] += 0.4
        time.sleep(0.1)
        assert w.runs("bad")[0]["calls"] == 1
        now[0] += 0.2
        assert w.done("bad")[0]["calls"] == 2


def test_concurrency_is_never_exceeded() -> None:
    with world() as w:
        lock, now, most = threading.Lock(), [0], [0]

        two = threading.Barrier(2)

        def body(ctx: Ctx) -> None:
            two.wait(PATIENCE_SECONDS)
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.02)
            with lock:
                now[0] -= 1

        w.serve(w.fn("conc", body, concurrency=[inngest.Concurrency(limit=2)]))
        w.client.send_sync([inngest.Event(name="demo.conc") for _ in range(12)])
        assert {r["status"] for r in w.done("conc", 12)} == {"Completed"}
        assert most[0] == 2


def test_a_hundred_runs_are_in_flight_at_once() -> None:
    with world() as w:
        barrier = threading.Barrier(100)
        w.serve(w.fn("many", lambda ctx: barrier.wait(PATIENCE_SECONDS) >= 0))
        w.client.send_sync([inngest.Event(name="demo.many") for _ in range(100)])
        assert {r["output"] for r in w.done("many", 100)} == {True}


def test_an_event_id_starts_nothing_twice_for_24_hours() -> None:
    offset = [0.0]
    with world(clock=lambda: time.time() + offset[0]) as w:
        bad = w.fn("bad", raising(inngest.NonRetriableError("no")))
        w.serve(bad)
        ids = set()
        for hours, runs in ((0, 1), (0, 1), (23.9, 1), (0.2, 2)):
            offset[0] += hours * 3600
            ids.add(w.send("demo.bad", id="same"))
            assert len(w.done("bad", runs)) == runs
        assert len(ids) == 4


def test_an_event_from_the_future_starts_its_function_then() -> None:
    with world() as w:
        w.serve(w.fn("late", lambda ctx: time.time()))
        due = time.time() + 0.4
        assert w.result("late", ts=int(due * 1000))["output"] >= due - 0.001


def test_cancelling() -> None:
    now = [time.time() + 60]
    with world(clock=lambda: now[0]) as w:
        w.serve(w.fn("slow", lambda ctx: ctx.step.sleep("s", 60_000)))
        for _ in range(2):
            w.send("demo.slow")
        until(lambda: all(r["calls"] for r in w.runs("slow")))
        url = f"{w.url}/v1/runs/{w.runs('slow')[0]['run_id']}"
        assert [requests.delete(url, timeout=PATIENCE_SECONDS).status_code for _ in range(2)] == [
            204,
            409,
        ]
        now[0] += 62
        assert [(r["status"], r["calls"]) for r in w.done("slow", 2)] == [
            ("Cancelled", 1),
            ("Completed", 2),
        ]


def test_what_the_standin_does_not_do_fails_the_run_at_once() -> None:
    with world() as w:

        def race(ctx: Ctx) -> Any:
            steps = tuple(partial(ctx.step.run, name, int) for name in "ab")
            return ctx.group.parallel(steps, parallel_mode=inngest.ParallelMode.RACE)

        asked: dict[str, Callable[[Ctx], Any]] = {
            "WaitForEvent": lambda ctx: ctx.step.wait_for_event("w", event="e", timeout=1000),
            "InvokeFunction": lambda ctx: ctx.step.invoke_by_id("i", function_id="other"),
            "race": race,
        }
        w.serve(*[w.fn(name, handler, retries=3) for name, handler in asked.items()])
        for name in asked:
            run = w.result(name)
            assert (run["status"], run["calls"]) == ("Failed", 1)
            assert "the stand-in does not do" in run["output"]["message"]
            assert name in run["output"]["message"]


def test_a_large_state_is_fetched_by_the_sdk() -> None:
    with world(signed=True) as w:

        def big(ctx: Ctx) -> Any:
            return sum(len(ctx.step.run(f"s{n}", lambda: "x" * 700_000)) for n in range(8))

        w.serve(w.fn("big", big))
        assert w.result("big")["output"] == 8 * 700_000
        assert [c[2]["use_api"] for c in calls_to(w, "big")][::8] == [False, True]


# --- answers that are not right --------------------------------------------------------------

SDK = {"x-inngest-sdk": "inngest-py:v0.5.19", "x-inngest-req-version": "2"}
STEP = {"id": "0" * 40, "op": "StepRun", "data": 1}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, "1"),
        (200, SDK, "NaN"),
        (200, SDK, "<html>"),
        (201, SDK, "1"),
        (206, SDK, "[]"),
        (206, SDK, json.dumps([STEP | {"op": "Unheard"}])),
        (206, SDK, json.dumps([{"op": "StepRun"}])),
        (206, SDK, json.dumps([STEP | {"id": "short"}])),
        (206, SDK, json.dumps([STEP | {"op": "StepError"}])),
        (206, SDK, json.dumps([STEP | {"op": "Sleep", "name": "soon"}])),
        (302, {"location": "/"}, ""),
        (401, {"x-inngest-sdk-handled": "true"}, '{"message": "Unauthorized"}'),
        (503, {}, "busy"),
    ],
)
def test_a_wrong_answer_is_a_failed_attempt(
    status: int, headers: dict[str, str], body: str
) -> None:
    odd = Flask("odd")
    odd.post("/api/inngest")(lambda: Response(body, status, headers))
    with serve_in_thread(odd) as url, InngestStandIn(tick=0.01, gap_scale=0.001) as standin:
        register(standin, f"{url}/api/inngest", attempts=1)
        send_raw(standin, b'{"name": "demo.x"}')
        run = until(lambda: [r for r in standin.runs() if r["ended_at"]])[0]
        assert (run["status"], run["calls"]) == ("Failed", 1 if "soon" in body else 2)


def register(
    standin: InngestStandIn, url: str, attempts: int = 0, **more: Any
) -> requests.Response:
    return requests.post(
        f"{standin.url}/fn/register",
        json=a_registration(url, attempts, **more),
        timeout=PATIENCE_SECONDS,
    )


def a_registration(url: str, attempts: int = 0, **more: Any) -> dict[str, Any]:
    step = {"id": "step", "name": "step", "retries": {"attempts": attempts}}
    step["runtime"] = {"type": "http", "url": f"{url}?fnId=app-x&stepId=step"}
    function = {
        "id": "app-x",
        "name": "x",
        "steps": {"step": step},
        "triggers": [{"event": "demo.x"}],
    }
    recorded: dict[str, Any] = RECORDED[0]["request"]
    return recorded | {"appname": "app", "url": url, "functions": [function | more]}


def send_raw(
    standin: InngestStandIn, body: bytes, key: str = "k", **headers: str
) -> requests.Response:
    return requests.post(
        f"{standin.url}/e/{key}", data=body, headers=headers, timeout=PATIENCE_SECONDS
    )


def test_an_app_that_is_away_costs_attempts_and_is_found_again() -> None:
    with world() as w:
        w.serve(w.fn("x", lambda ctx: ctx.attempt))
        w.server.stop()
        run = w.result("x")
        assert (run["status"], run["calls"]) == ("Failed", 1)
        assert "Unable to reach" in run["output"]["message"]
        w.server = LoopbackServer(w.wsgi, w.server.port)
        w.server.start()
        w.send("demo.x")
        assert w.done("x", 2)[1]["status"] == "Completed"


# --- keys and signatures ---------------------------------------------------------------------


def test_keys_are_demanded_in_signed_mode() -> None:
    with world(signed=True) as w:
        w.serve(w.fn("x", lambda ctx: 1))
        assert w.result("x")["output"] == 1
        assert requests.get(f"{w.url}/dev", timeout=5).status_code == 404
        wrong = send_raw(w.standin, b'{"name": "demo.x"}', key="wrong")
        assert (wrong.status_code, wrong.json()["status"]) == (401, 401)
        run = w.runs("x")[0]["run_id"]
        for path in ("/v1/runs/", "/v0/runs/"):
            for given in ({}, {"authorization": f"Bearer {KEY}"}):
                url = f"{w.url}{path}{run}" + ("/batch" if "v0" in path else "")
                assert requests.get(url, headers=given, timeout=PATIENCE_SECONDS).status_code == 401
        assert register(w.standin, w.app_url).status_code == 401
        unsigned = requests.post(
            f"{w.app_url}?fnId=try-x&stepId=step", json={}, timeout=PATIENCE_SECONDS
        )
        assert unsigned.status_code == 401


def test_a_wrong_signing_key_fails_the_run_not_the_server() -> None:
    with world(signed=True) as w:
        w.serve(w.fn("x", lambda ctx: 1, retries=1))
        w.standin._caller._signing_key = "ff" * 32
        run = w.result("x")
        assert (run["status"], run["calls"]) == ("Failed", 2)


def test_an_unsigned_answer_is_refused_in_signed_mode() -> None:
    bare = Flask("bare")
    bare.post("/api/inngest")(lambda: Response("1", 200, SDK))
    with serve_in_thread(bare) as url, InngestStandIn((), EVENT_KEY, KEY, 0.01) as standin:
        name, functions = parse_registration(a_registration(f"{url}/api/inngest"))
        standin.engine.register(name, functions, time.time())
        send_raw(standin, b'{"name": "demo.x"}', key=EVENT_KEY)
        run = until(lambda: [r for r in standin.runs() if r["ended_at"]])[0]
        assert "signature" in run["output"]["message"]


def test_the_wrong_kind_of_server_is_refused_both_ways() -> None:
    with world(signed=True) as w:
        w.serve(w.fn("x", lambda ctx: 1))
        recorded = RECORDED[-1]
        put = requests.put(
            w.app_url, headers={"x-inngest-server-kind": "dev"}, timeout=PATIENCE_SECONDS
        )
        assert (put.status_code, put.json()) == (400, recorded["response"])
        headers = {"x-inngest-expected-server-kind": "dev", "authorization": codec.bearer(KEY)}
        url, body = f"{w.url}/fn/register", a_registration(w.app_url)
        answer = requests.post(url, json=body, headers=headers, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 400
        assert "Expected server kind cloud" in answer.json()["error"]


def test_keys_must_be_right_at_the_start() -> None:
    with pytest.raises(ValueError, match="both keys"):
        InngestStandIn(event_key="k")
    with pytest.raises(ValueError, match="plain hex"):
        InngestStandIn(event_key="k", signing_key="signkey-prod-0123")


# --- registering and sending, refused --------------------------------------------------------

URL = "http://127.0.0.1:1/api/inngest"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"id": "other-x"}, "id must be"),
        ({"name": ""}, "name"),
        ({"steps": {}}, "steps"),
        ({"triggers": []}, "triggers"),
        ({"triggers": [{}]}, "either an event or a cron"),
        ({"triggers": [{"event": "e", "cron": "* * * * *"}]}, "either"),
        ({"triggers": [{"event": "inngest/function.failed"}]}, "does not send"),
        ({"triggers": [{"event": "e", "expression": "event.data.k == 1"}]}, "expression: the sta"),
        *[
            ({"triggers": [{"cron": cron}]}, "invalid cron")
            for cron in (
                "61 * * * *",
                "TZ=Mars 0 0 * * *",
                "* * * *",
                "0 0 * * * *",
                "@daily",
                "0 0 * * 7",
                "0 0 L * *",
            )
        ],
        ({"triggers": [{"event": "e"}] * 2}, "duplicate trigger e"),
        ({"triggers": [{"event": f"e{n}"} for n in range(11)]}, "triggers"),
        ({"concurrency": [{"limit": 0}]}, "limit"),
        ({"concurrency": [{"limit": 1, "key": "event.data.k"}]}, "key"),
        ({"concurrency": [{"limit": 1}, {"limit": 2}]}, "concurrency"),
        *[
            ({key: {}}, f"{key}: the stand-in does not do this")
            for key in ("cancel", "timeouts", "idempotency", "debounce", "priority", "unheardOf")
        ],
    ],
)
def test_a_registration_that_is_not_right_is_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_registration(a_registration(URL, **more))


@pytest.mark.parametrize(
    "body",
    [
        *(None, [], {}),
        a_registration(URL, attempts=21),
        a_registration(URL) | {"v": "2"},
        a_registration("http://example.com/api/inngest"),
    ],
)
def test_more_registrations_are_refused(body: Any) -> None:
    with pytest.raises(ValueError, match=r"valid|attempts|v: |loopback|required"):
        parse_registration(body)


def test_the_sdk_passes_a_refusal_on_with_status_200() -> None:
    with world() as w:
        inngest.flask.serve(
            w.wsgi, w.client, [w.fn("x", lambda ctx: 1, priority=inngest.Priority(run="1"))]
        )
        w.server.start()
        answer = requests.put(w.app_url, timeout=PATIENCE_SECONDS)
        assert (answer.status_code, answer.json()["status"]) == (200, 400)
        assert "priority" in (next(iter(w.standin.sync().values())) or "")


def test_a_removed_function_stops_firing() -> None:
    with InngestStandIn(tick=0.01) as standin:
        assert register(standin, URL).json()["modified"] is True
        assert register(standin, URL, triggers=[{"event": "demo.y"}]).json()["modified"] is True
        send_raw(standin, b'{"name": "demo.x"}')
        assert standin.runs() == []


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        b"1",
        b"{}",
        b'{"name": ""}',
        b'{"name": 1}',
        b'{"name": "inngest/function.failed"}',
        b'{"name": "Inngest/x"}',
        b'{"name": "a", "data": []}',
        b'{"name": "a", "data": {"x": NaN}}',
        b'{"name": "a", "ts": "now"}',
        b'{"name": "a", "ts": 1.5}',
        b'{"name": "a", "ts": 1700000000}',
        b'{"name": "a", "id": 1}',
        b'{"name": "a", "more": 1}',
        b'{"name": "a", "data": {"x": "' + b"x" * 3 * 1024 * 1024 + b'"}}',
    ],
)
def test_an_event_that_is_not_right_is_refused(event: bytes) -> None:
    with InngestStandIn() as standin:
        answer = send_raw(standin, event)
        assert (answer.status_code, answer.json()["ids"]) == (400, [])
        assert answer.json()["error"]


def test_a_bad_batch_is_partly_accepted() -> None:
    with world() as w:
        w.serve(w.fn("x", lambda ctx: 1))
        good, bad = inngest.Event(name="demo.x"), inngest.Event(name="inngest/x")
        with pytest.raises(SendEventsError) as caught:
            w.client.send_sync([good, good, bad, good])
        assert len(caught.value.ids) == len(w.done("x", 2)) == 2
        answer = send_raw(w.standin, json.dumps([{"name": "demo.unheard"}] * 5001).encode())
        assert (answer.status_code, len(answer.json()["ids"])) == (400, 5000)


# --- REST, faults, the end -------------------------------------------------------------------


def test_rest_answers_are_cached_as_the_real_ones_are() -> None:
    now = [time.time() + 60]
    with world(clock=lambda: now[0]) as w:

        def get(path: str) -> Any:
            return requests.get(w.url + path, timeout=PATIENCE_SECONDS).json()

        def slow(ctx: Ctx) -> Any:
            ctx.step.run("a", int)
            ctx.step.sleep("b", 120_000)
            return {"n": 1}

        w.serve(w.fn("slow", slow))
        # Not yet due, so that the first answer is surely before the first step.
        due = int((now[0] + 5) * 1000)
        path = f"/v1/events/{w.send('demo.slow', ts=due)}/runs"
        assert get(path)["data"][0]["status"] == "Running"
        now[0] += 5.1
        until(lambda: w.runs("slow")[0]["calls"] == 2 and w.runs("slow")[0]["steps"])
        early = get(f"{path}?_=1")["data"][0]
        assert (early["status"], early["ended_at"]) == ("Completed", None)
        now[0] += 9
        assert get(path)["data"][0]["status"] == "Running"
        now[0] += 60
        run = w.done("slow")[0]
        (shown,) = get(path)["data"]
        assert (shown["status"], shown["output"]) == ("Completed", {"n": 1})
        assert shown.items() <= run.items()
        assert get(f"/v1/runs/{run['run_id']}")["data"] == shown
        assert get("/v1/runs/none")["status"] == 404
        assert set(get(f"/v0/runs/{run['run_id']}/batch")[0]) == {"data", "id", "name", "ts"}


def test_faults() -> None:
    with world() as w:
        w.serve(w.fn("x", lambda ctx: 1))
        w.standin.fault(swallow=1)
        w.send("demo.x")
        w.standin.fault(double=1)
        w.send("demo.x", id="twice")
        assert len(w.done("x", 2)) == 2
        w.standin.fault(unknown_outcome=1)
        threading.Timer(0.05, w.standin.fault).start()
        w.send("demo.x")
        w.standin.fault(drop=1)
        with pytest.raises(requests.ConnectionError):
            send_raw(w.standin, b'{"name": "demo.x"}')
        # The SDK tried again with the same seed: one event, one run.
        assert len(w.done("x", 4)) == 4
        url = f"{w.url}/_standin/faults"
        for wrong in ({"swallow": 2}, {"odd": 1}, [1]):
            assert requests.post(url, json=wrong, timeout=PATIENCE_SECONDS).status_code == 400
        assert (
            requests.post(url, json={"refuse": 1}, timeout=PATIENCE_SECONDS).json()["refuse"] == 1
        )
        assert send_raw(w.standin, b'{"name": "demo.x"}').status_code == 503
        assert (
            requests.get(f"{w.url}/_standin/runs", timeout=PATIENCE_SECONDS).json()
            == w.standin.runs()
        )


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "app.local.inngest", "--port", "0", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert requests.get(f"{url}/dev", timeout=PATIENCE_SECONDS).json() == {"functions": []}
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0

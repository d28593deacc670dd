"""The Inngest stand-in against the real SDK, and its calls against recorded ones."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, Response, request

from app.local.inngest.functions import Function
from app.local.inngest.server import UNLISTED_SECONDS
from app.local.serving import LoopbackServer
from tests.support.inngest_keys import ProductionKeys
from tests.support.serving import serve_in_thread
from tests.support.standins import InngestStandIn
from tests.support.waiting import PATIENCE_SECONDS, until

with warnings.catch_warnings():
    # The SDK's own use of pydantic, at import.
    warnings.simplefilter("ignore", DeprecationWarning)
    import inngest
    import inngest.flask

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "inngest_exchanges.json").read_text()
)
KEY = "0123456789abcdef" * 4
BEARER = f"Bearer {hashlib.sha256(bytes.fromhex(KEY)).hexdigest()}"
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
        given: dict[str, Any] = {"apps": [self.app_url], "gap_scale": 0.001, "tick": 0.01}
        self.standin = InngestStandIn(**(keys | given | options))
        self.url = self.standin.start()
        self.client = inngest.Inngest(
            app_id="try",
            api_base_url=self.url,
            event_api_base_url=self.url,
            is_production=signed,
            logger=QUIET,
            **keys,
        )
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

    def result(self, name: str, **more: Any) -> dict[str, Any]:
        """Send `demo.<name>` and wait for the function's run."""
        self.send(f"demo.{name}", **more)
        return self.done(name)[0]

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        url = self.url + path
        return requests.request(method, url, json=body, headers=headers, timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        self.standin.stop()
        self.server.stop()
        self.client._http_client._http_client_sync.close()


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

    return [
        w.fn("three", three, trigger=inngest.TriggerEvent(event="demo.run")),
        w.fn("flaky", flaky, retries=3),
        w.fn("flakystep", flakystep, retries=3),
        w.fn("retryafter", retryafter, retries=3),
        w.fn("nonretri", raising(inngest.NonRetriableError("never")), retries=3),
        w.fn("wf", lambda ctx: ctx.step.sleep("nap", 50)),
        w.fn("cron", lambda ctx: None, trigger=inngest.TriggerCron(cron="* * * * *"), retries=None),
    ]


@pytest.fixture(scope="module", params=["dev", "signed self-hosted"])
def played(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world in which everything recorded has happened, over a full minute."""
    offset = [-time.time() % 60]
    with closing(World(request.param != "dev", clock=lambda: time.time() + offset[0])) as w:
        w.serve(*like_the_recorded(w))
        # However long that took: the next full minute comes at once.
        offset[0] += 58.5 - (time.time() + offset[0]) % 60
        w.send("demo.wf", {"k": 1})
        w.send("demo.run", {"a": 1})
        for name in ("flaky", "flakystep", "retryafter", "nonretri"):
            w.send(f"demo.{name}")
        for name in ("three", "flaky", "flakystep", "retryafter", "nonretri", "wf", "cron"):
            w.done(name)
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
    ("function", "indexes", "status", "output"),
    [
        ("three", [0, 1, 2, 3], "Completed", {"sum": 6}),
        ("flaky", [0, 1, 2], "Completed", {"attempt": 2}),
        ("flakystep", [0, 2], "Completed", 2),
        ("retryafter", [0], "Completed", None),
        ("nonretri", [0], "Failed", "never"),
        ("wf", [0], "Completed", None),
        ("cron", [0], "Completed", None),
    ],
)
def test_calls_are_as_recorded(
    played: World, function: str, indexes: list[int], status: str, output: Any
) -> None:
    recorded = [x for x in RECORDED if f"fnId=try-{function}&" in x["url"] and x["mode"] == "dev"]
    sent = calls_to(played, function)
    assert len(recorded) == len(indexes)
    for expected, (path, headers, body) in zip(recorded, [sent[i] for i in indexes], strict=True):
        assert path == expected["url"]
        assert shape(body) == shape(expected["request"])
        assert set(body["steps"]) == set(body["ctx"]["stack"]["stack"])
        assert body["ctx"]["stack"]["stack"] == expected["request"]["ctx"]["stack"]["stack"]
        ours = {name.lower(): value for name, value in headers.items()}
        signature = {"x-inngest-signature"} if played.standin.keys.server_kind == "cloud" else set()
        names = {name for name in ours if name.startswith("x-")}
        assert names | {"user-agent"} == set(expected["request_headers"]) | signature
        for name in ("user-agent", "x-inngest-generation-id", "x-inngest-req-version"):
            assert ours[name] == expected["request_headers"][name]
    run = played.runs(function)[0]
    result = run["output"] if status == "Completed" else run["output"]["message"]
    assert (run["status"], result) == (status, output)


def test_registering_is_as_recorded(played: World) -> None:
    recorded, kind = RECORDED[0], played.standin.keys.server_kind
    headers = {"authorization": BEARER, "x-inngest-expected-server-kind": kind}
    renamed = json.dumps(recorded["request"] | {"appname": "other"}).replace("try-", "other-")
    body = json.loads(renamed)
    answers = [played.ask("POST", "/fn/register", body, headers) for _ in range(2)]
    for answer in answers:
        assert shape(answer.json()) == shape(recorded["response"])
        assert answer.headers["content-type"] == recorded["response_headers"]["content-type"]
        assert answer.headers["x-inngest-server-kind"] == kind
    assert [a.json()["modified"] for a in answers] == [True, False]
    put = next(one for one in played.requests if one[2] and set(one[2]) == {"url"})
    assert put[1]["User-Agent"] == RECORDED[1]["request_headers"]["user-agent"]
    assert put[2]["url"] == played.app_url.replace("127.0.0.1", "localhost")
    # The wrong kind of server is refused on both sides.
    headers["x-inngest-expected-server-kind"] = "other"
    assert (
        "Expected server kind" in played.ask("POST", "/fn/register", body, headers).json()["error"]
    )
    if kind == "cloud":
        wrong = requests.put(
            played.app_url, headers={"x-inngest-server-kind": "dev"}, timeout=PATIENCE_SECONDS
        )
        assert (wrong.status_code, wrong.json()) == (400, RECORDED[-1]["response"])


# --- sending and running ---------------------------------------------------------------------


def test_what_rest_says_of_an_event_takes_longer_the_more_it_has_run() -> None:
    with closing(World()) as w:
        w.serve(w.fn("x", lambda ctx: 1))
        path = f"/v1/events/{w.send('demo.x')}/runs"
        (run,) = w.done("x")
        kept = w.standin.engine.runs
        kept.update({str(n): kept[run["run_id"]] for n in range(100_000)})
        asked = time.monotonic()
        w.ask("GET", path)
        assert time.monotonic() - asked > 0.15


def test_a_large_state_is_fetched_by_the_sdk() -> None:
    with closing(World(signed=True)) as w:

        def big(ctx: Ctx) -> Any:
            return sum(len(ctx.step.run(f"s{n}", lambda: "x" * 700_000)) for n in range(8))

        w.serve(w.fn("big", big))
        run = w.result("big")
        assert run["output"] == 8 * 700_000
        assert [c[2]["use_api"] for c in calls_to(w, "big")][::8] == [False, True]
        batch = w.ask("GET", f"/v0/runs/{run['run_id']}/batch", headers={"authorization": BEARER})
        (recorded,) = (one for one in RECORDED if one["url"].endswith("/batch"))
        assert set(batch.json()[0]) == set(recorded["response"][0])


def test_what_rest_says_is_late_cached_and_too_early_done() -> None:
    now = [time.time() + 60]
    with closing(World(clock=lambda: now[0])) as w:

        def slow(ctx: Ctx) -> Any:
            ctx.step.run("a", int)
            ctx.step.sleep("b", 120_000)
            return {"n": 1}

        w.serve(w.fn("slow", slow))
        path = f"/v1/events/{w.send('demo.slow')}/runs"

        def listed(query: str = "") -> list[dict[str, Any]]:
            return list(w.ask("GET", path + query).json()["data"])

        until(lambda: w.runs("slow")[0]["calls"] == 2 and w.runs("slow")[0]["steps"])
        assert listed() == []
        now[0] += UNLISTED_SECONDS
        assert listed() == []
        (early,) = listed("?_=1")
        assert (early["status"], early["ended_at"]) == ("Completed", None)
        now[0] += 121
        (run,) = w.done("slow")
        (shown,) = listed()
        assert (shown["status"], shown["output"]) == ("Completed", {"n": 1})
        assert shown.items() <= run.items()
        w.send("demo.slow")
        cancelled = until(lambda: w.runs("slow")[1:])[0]["run_id"]
        # An ended run and an unknown one are answered well, too.
        answers = [w.ask("DELETE", f"/v1/runs/{one}") for one in (cancelled, cancelled, "none")]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert answers[2].json()["status"] == 404
        assert w.done("slow", 2)[1]["status"] == "Cancelled"


# --- keys and signatures ---------------------------------------------------------------------


def test_keys_are_demanded_in_signed_mode() -> None:
    with closing(World(signed=True)) as w:
        w.serve(w.fn("x", lambda ctx: 1, retries=1))
        run = w.result("x")
        assert run["output"] == 1
        wrong = w.ask("POST", "/e/wrong", {"name": "demo.x"})
        assert (wrong.status_code, wrong.json()["status"]) == (401, 401)
        for path in (
            f"/v0/runs/{run['run_id']}/batch",
            "/v1/events/x/runs",
            "/v1/apps/try/functions",
        ):
            for given in ({}, {"authorization": f"Bearer {KEY}"}):
                assert w.ask("GET", path, headers=given).status_code == 401
        assert w.ask("POST", "/fn/register", {}).status_code == 401
        unsigned = requests.post(
            f"{w.app_url}?fnId=try-x&stepId=step", json={}, timeout=PATIENCE_SECONDS
        )
        assert unsigned.status_code == 401
        w.standin._caller.keys = ProductionKeys(EVENT_KEY, "ff" * 32)
        w.send("demo.x")
        failed = w.done("x", 2)[1]
        assert (failed["status"], failed["calls"]) == ("Failed", 2)


def test_an_unsigned_answer_is_refused_in_signed_mode() -> None:
    bare, sdk = Flask("bare"), {"x-inngest-sdk": "inngest-py:v0.5.19"}
    bare.post("/api/inngest")(lambda: Response("1", 200, sdk))
    with serve_in_thread(bare) as url, InngestStandIn((), EVENT_KEY, KEY) as standin:
        app = f"{url}/api/inngest?fnId=app-x&stepId=step"
        function = Function("app-x", "u", app, 1, ("demo.x",), (), None)
        standin.engine.register("app", [function], time.time())
        requests.post(
            f"{standin.url}/e/{EVENT_KEY}", json={"name": "demo.x"}, timeout=PATIENCE_SECONDS
        )
        run = until(lambda: [r for r in standin.runs() if r["ended_at"]])[0]
        assert "signature" in run["output"]["message"]

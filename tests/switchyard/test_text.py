"""Text from outside: whatever an error says, a key, a reference, a name or a reason holds."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy.orm import Session

from app.switchyard.audit import By
from app.switchyard.context import Context
from app.switchyard.cutover import stages
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput, NonRetriable, OutcomeUnknown, RetryAfter
from app.switchyard.job import job
from app.switchyard.runs.backend import Delivery, End
from app.switchyard.text import LEVELS, hide, reason
from app.switchyard.words import pretty
from flags import Side
from tests.support.jobs import Name
from tests.support.sides import Fixed, app_on, decide_by, environment, side
from tests.support.sides import Side as Bench

UNFIT = ["a\0", "\ud800", "line\nbreak", "\x7f", "x" * 300, ""]


class Speechless(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no")


class Quitter(Exception):
    """An error that ends the process of whoever asks what it is."""

    def __str__(self) -> str:
        raise SystemExit("\ud800")


class Halt(BaseException):
    """What a library raises to unwind its own stack."""


ODD: dict[str, BaseException] = {
    "surrogate": ValueError("\ud800"),
    "nul": ValueError("a\0b"),
    "long": ValueError("x" * 3_000_000),
    "speechless": Speechless(),
    "quitter": Quitter(),
    "halt": Halt("\ud800"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("\ud800"),
    "naive": RetryAfter("\0", datetime(2030, 1, 1)),  # noqa: DTZ001 - that is what is wrong with it
    "endless": RetryAfter("later", timedelta.max),
    "no time": RetryAfter("later", 30),  # type: ignore[arg-type]
    "final": NonRetriable("\0\ud800"),
    "unknown": OutcomeUnknown("\0\ud800"),
}


@job("odd", event="test.odd", payload=Name, queue="tests", gaps=(0.0,), attempts=3)
def odd(ctx: Context, payload: Name) -> None:
    """Raises ODD[its name], in its body or in a step of the kind named before a slash."""
    where, _, name = payload.name.rpartition("/")

    def fail(_tx: Session) -> None:
        raise ODD[name]

    if where == "name":
        ctx.step.run("\0" if name == "nul" else "s" * 250, lambda _tx: None)
    elif where:
        getattr(ctx.step, where)("step", fail)
    raise ODD[name]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    modules = f"tests.support.jobs,{__name__}"
    with side("memory", database_url, "unix:///nowhere", tmp_path, SWITCHYARD_JOBS=modules) as made:
        yield made


def test_a_run_ends_whatever_its_error_is(bench: Bench) -> None:
    """R1: its attempts are counted, its error can be written, and the worker lives."""
    names = [f"{where}{name}" for where in ("", "run/", "once/") for name in ODD]
    runs = bench.dispatch_many("odd", [{"name": name} for name in names])
    with ThreadPoolExecutor(1) as worker:  # in the main thread an interrupt may be Ctrl-C
        rows = worker.submit(bench.finish, *runs).result()
    for name, row in zip(names, rows, strict=True):
        assert row.status == "failed", name
        assert 0 < len(row.error) < 20_000
        assert not set("\0\ud800") & set(row.error)
        attempts = {step.attempts for step in bench.steps(row.id).values()}
        retried = not name.endswith(("final", "unknown")) and not name.startswith("once")
        assert not retried or attempts in ({2}, {3}), name


def test_a_step_s_name_that_cannot_be_kept_fails_its_run(bench: Bench) -> None:
    runs = [bench.dispatch("odd", {"name": f"name/{name}"}) for name in ("nul", "long")]
    for row in bench.finish(*runs):
        assert (row.status, "step's name" in row.error) == ("failed", True)


def test_what_no_run_can_be_is_none(bench: Bench) -> None:
    for run_id in ("", "\0", "\ud800", "x" * 99, "0' OR 1"):
        assert bench.runtime.engine.perform(run_id, 1, Delivery("x")).end == End.NOT_MINE
    for epoch in (-1, 0, 2**31, 10**30):
        assert bench.runtime.engine.perform("0" * 26, epoch, Delivery("x")).end == End.NOT_MINE


def test_a_reference_that_cannot_be_kept_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = ["r\0", "\ud800", "r" * 256, "", "a b"]
    monkeypatch.setattr(
        bench.memory, "send", lambda sent: {m.run_id: refs.pop() for m in sent if refs}
    )
    for run in [bench.dispatch("noop", {"name": "x"}) for _ in range(5)]:
        assert bench.row(run.id).sent_ref is None
    assert refs == []


def test_what_names_something_is_text_that_can_be_kept(bench: Bench) -> None:
    db, now = bench.runtime.db, bench.runtime.store.clock()
    decide_by(Fixed("memory"))
    me = By("me", "test")
    for unfit in UNFIT:
        with pytest.raises(BadInput):
            dispatch("noop", {"name": "x"}, key=unfit)
        with pytest.raises(BadInput):
            stages.pin(db, "noop", [unfit], Side.RQ, me, now)
        for wrong in ({"who": unfit}, {"why": unfit.replace("\n", "\0") * 10}):
            with pytest.raises(BadInput):
                By(**{"who": "me", "why": "test"} | wrong).with_reason()


@pytest.fixture
def client(database_url: str) -> Iterator[FlaskClient]:
    with app_on(environment(database_url, "unix:///nowhere")) as app:
        yield app.test_client()


def test_over_http_it_is_the_caller_s_fault(client: FlaskClient) -> None:
    decide_by(Fixed("rq"))
    event = {"name": "test.noop", "data": {"name": "x"}}
    for unfit in UNFIT:
        for body in (
            event | {"id": unfit},
            event | {"name": unfit},
            {"name": "runs.shadow", "data": {"runId": unfit}},
        ):
            answer = client.post("/api/inngest/trigger", json=body)
            assert 400 <= answer.status_code < 500, (body, answer.text)
        sent = quote(unfit, errors="surrogatepass")
        for name in ("job", "status", "before", "parent"):
            assert client.get(f"/console/runs?{name}={sent}").status_code < 500, (name, unfit)


def test_a_reason_says_why_and_no_secret() -> None:
    hide("hunter2-secret", "abc", None)
    for failure, says in (
        (ValueError("at redis://u:pw@host/0 with hunter2-secret"), "at redis://…@host/0 with …"),
        (OSError("abc"), "abc"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ssl.SSLError(1, "[SSL] wrong version number"), "TLS failed: [SSL] wrong version number"),
        (TimeoutError(), "no answer in time"),
        (ValueError("one\x1b[31m\ntwo"), "one[31m"),
        (KeyError(), "KeyError"),
        (Speechless(), "(it cannot be shown)"),
    ):
        assert reason(failure) == says
    assert len(reason(ValueError("x " * 9999))) <= 300


WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.mark.parametrize(
    "noisy",
    [
        f"{WRONG} script: on @user_script:1.",
        f"{WRONG} script: 0123456789abcdef0123456789abcdef01234567, on @user_script:14.",
        f"Error running script (call to f_0123abc): @user_script:8: {WRONG}",
        f"Error running script (call to f_0123abc): @user_script:8: @user_script: 8: {WRONG}",
        f"Command # 2 (EVAL \nreturn 1 0 key) of pipeline caused error: {WRONG}",
    ],
)
def test_a_reason_leaves_out_the_script_and_the_command(noisy: str) -> None:
    assert reason(ResponseError(noisy)) == WRONG


def test_a_real_redis_s_reasons_are_plain(redis: Redis) -> None:
    redis.flushall()
    redis.set("taken", "x")
    with pytest.raises(ResponseError) as failed:
        redis.eval("\nreturn redis.call('RPUSH', KEYS[1], 'x')", 1, "taken")
    assert reason(failed.value) == WRONG
    pipe = redis.pipeline()
    pipe.eval("\nreturn redis.call('RPUSH', KEYS[1], 'x')", 1, "taken")
    with pytest.raises(ResponseError) as failed:
        pipe.execute()
    assert reason(failed.value) == WRONG


def test_of_json_that_is_too_deep_the_upper_levels_are_shown() -> None:
    deep: Any = "end"
    for _ in range(900):
        deep = {"token": "", "a": [deep]}
    assert (pretty(deep).count('"a"'), "…" in pretty(deep)) == (LEVELS // 2, True)
    assert pretty({"token": "x", "a": [{"b": 1}]}).count("1") == 1

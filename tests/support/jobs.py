"""Jobs for the tests: each says in the table `marks` what it did, so that a test can count it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import current_app, g
from pydantic import Field
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.switchyard import runtime
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, NotDone, OutcomeUnknown, RetryAfter, StepFailed
from app.switchyard.job import IfUnknown, JobPayload, job
from app.switchyard.runs.engine import current_run
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow
from app.switchyard.runs.relay import TAKE_OVER
from tests.support.marks import mark, stay, touch

GAPS = (0.2, 0.3)


class Name(JobPayload):
    """A name to mark effects with."""

    name: str
    fail_at: int = 0
    failures: int = 0
    wait_seconds: float = 0.2
    children: int = 3
    moves: dict[int, str] = Field(default_factory=dict)


@job("noop", event="test.noop", payload=Name, queue="tests", gaps=GAPS)
def noop(ctx: Context, payload: Name) -> None:
    """Nothing."""


@job("five-steps", event="test.five", payload=Name, queue="tests", gaps=GAPS)
def five_steps(ctx: Context, payload: Name) -> list[str]:
    """Five steps; step `fail_at` (each one, where it is -1) fails `failures` times first."""

    def step(tx: Session, number: int) -> str:
        what = f"{payload.name}/{number}"
        if payload.fail_at in (number, -1) and touch(ctx, what) <= payload.failures:
            raise RuntimeError(f"step {number} failed on purpose")
        return mark(tx, ctx, what)

    return [ctx.step.run(f"step {number}", step, number) for number in range(1, 6)]


@job("reporter", event="test.reporter", payload=Name, queue="tests", gaps=GAPS)
def reporter(ctx: Context, payload: Name) -> list[Any]:
    """What its run says of itself; its step says how far it is, and fails once."""

    def report(tx: Session) -> list[Any]:
        run = current_run()
        assert run is not None
        tries = touch(ctx, payload.name)
        run.progress(tries, 2, f"try {tries}")
        if tries == 1:
            raise RuntimeError("on purpose")
        return [run.id, run.key, run.job, run.backend, run.attempt]

    said = ctx.step.run("report", report)
    run = current_run()
    assert run is not None
    return [*said, run.attempt]


@job("sleeper", event="test.sleep", payload=Name, queue="tests", gaps=GAPS)
def sleeper(ctx: Context, payload: Name) -> str:
    """A step, a sleep, a step."""
    ctx.step.run("before", mark, ctx, f"{payload.name}/before")
    ctx.step.sleep("nap", timedelta(seconds=payload.wait_seconds))
    return ctx.step.run("after", mark, ctx, f"{payload.name}/after")


@job("parent", event="test.parent", payload=Name, queue="tests", gaps=GAPS)
def parent(ctx: Context, payload: Name) -> dict[str, int]:
    """Children, and a wait for them."""
    payloads = [{"name": f"{payload.name}/{number}"} for number in range(payload.children)]
    ctx.step.dispatch("start", "child", payloads)
    ended = ctx.step.join("ended")
    ctx.step.run("after", mark, ctx, f"{payload.name}/after")
    return ended


@job("child", event="test.child", payload=Name, queue="tests", gaps=GAPS)
def child(ctx: Context, payload: Name) -> str:
    return ctx.step.run("mark", mark, ctx, payload.name)


UNSENT = {"large": "x" * 5_000_000, "half": "a\ud800", "number": 10**400}
UNSENT["deep"] = json.loads("[" * 300 + "]" * 300)


@job("unsent", event="test.unsent", payload=Name, queue="tests", gaps=GAPS)
def unsent(ctx: Context, payload: Name) -> Any:
    """A result that Inngest does not take, UNSENT[its name], and a step after it."""
    result = ctx.step.run("make", lambda _tx: UNSENT[payload.name])
    ctx.step.run("after", lambda _tx: None)
    return result


@job("hopeless", event="test.hopeless", payload=Name, queue="tests", gaps=GAPS, attempts=3)
def hopeless(ctx: Context, payload: Name) -> None:
    """A step that always fails."""

    def fail(tx: Session) -> None:
        touch(ctx, payload.name)
        raise RuntimeError("always")

    ctx.step.run("fail", fail)


@job("talker", event="test.talker", payload=Name, queue="tests", gaps=GAPS, attempts=1)
def talker(ctx: Context, payload: Name) -> None:
    """It fails deep down, with an error that holds more than can be kept."""

    def deeper(left: int) -> None:
        if left == 0:
            raise RuntimeError(f"{payload.name}: {'x' * 20_000}")
        deeper(left - 1)

    ctx.step.run("talk", lambda _tx: deeper(200))


@job("refuser", event="test.refuser", payload=Name, queue="tests", gaps=GAPS)
def refuser(ctx: Context, payload: Name) -> None:
    """A step for which trying again cannot help, or with `failures` not so soon; one before it."""

    def refuse(tx: Session) -> None:
        if touch(ctx, payload.name) <= (payload.failures or sys.maxsize):
            raise NonRetriable("never [red]\x1b[31m")

    ctx.step.run("first", mark, ctx, f"{payload.name}/first")
    ctx.step.run("refuse", refuse)


@job("catcher", event="test.catcher", payload=Name, queue="tests", gaps=GAPS, attempts=2)
def catcher(ctx: Context, payload: Name) -> str:
    """A body that goes on after a step failed for good."""

    def fail(tx: Session) -> None:
        touch(ctx, payload.name)
        raise RuntimeError("always")

    try:
        ctx.step.run("fail", fail)
    except StepFailed as failed:
        return ctx.step.run("instead", mark, ctx, f"{payload.name}/{failed.step}")
    return "not reached"


@job("later", event="test.later", payload=Name, queue="tests", gaps=GAPS)
def later(ctx: Context, payload: Name) -> str:
    """A step that asks to be tried again at a time of its own."""

    def once(tx: Session) -> str:
        if touch(ctx, payload.name) == 1:
            raise RetryAfter("not yet", timedelta(seconds=payload.wait_seconds))
        return mark(tx, ctx, payload.name)

    return ctx.step.run("once", once)


@job("no-steps", event="test.no-steps", payload=Name, queue="tests", gaps=GAPS)
def no_steps(ctx: Context, payload: Name) -> str:
    """A body without steps that fails `failures` times."""
    if touch(ctx, payload.name) <= payload.failures:
        raise RuntimeError("body failed on purpose")
    return payload.name


@job("not-json", event="test.not-json", payload=Name, queue="tests", gaps=GAPS)
def not_json(ctx: Context, payload: Name) -> object:
    """A result that is not JSON."""
    return ctx.step.run("object", lambda tx: object())


@job("slow", event="test.slow", payload=Name, queue="tests", gaps=GAPS)
def slow(ctx: Context, payload: Name) -> str:
    """A step that takes its time in the outside world, then marks."""

    def work(tx: Session) -> str:
        touch(ctx, payload.name)
        time.sleep(payload.wait_seconds)
        return mark(tx, ctx, payload.name)

    ctx.step.run("work", work)
    return ctx.step.run("after", mark, ctx, f"{payload.name}/after")


CAP = 2


@job("capped", event="test.capped", payload=Name, queue="tests", gaps=GAPS, concurrency=CAP)
def capped(ctx: Context, payload: Name) -> list[str]:
    """Two steps inside."""
    return [
        ctx.step.run(f"stay {number}", stay, ctx, f"{payload.name}/{number}", payload.wait_seconds)
        for number in (1, 2)
    ]


def take_over(run_id: str) -> None:
    """As the relay does with a run whose holder says nothing any more."""
    store = runtime.current().store
    now = store.clock()
    with store.db.begin() as connection:
        lapsed = update(RunRow).where(RunRow.id == run_id).values(check_at=now)
        epoch = connection.scalar(lapsed.returning(RunRow.epoch))
        bound = {"run_id": run_id, "seen_epoch": epoch, "now": now}
        bound |= {"new_due_at": now, "new_check_at": now, "new_send_at": None}
        assert connection.execute(TAKE_OVER, bound).rowcount == 1


def _no_answer(_session: Session) -> None:
    raise OperationalError("COMMIT", None, ConnectionResetError("no answer"))


def send_once(tx: Session, ctx: Context, payload: Name) -> object:
    """An effect without a key, counted outside of `tx`; `moves` says how each try ends."""
    end = payload.moves.get(tried := touch(ctx, f"{payload.name}/tried"), "sent")
    if end == "not done":
        raise NotDone("nobody was there")
    if end == "refused":
        raise NonRetriable("never")
    touch(ctx, f"{payload.name}/sent")
    if end == "lost":
        raise ConnectionResetError("no answer")
    if end == "moved":
        hand_over(runtime.current().store, [ctx.run_id], "inngest" if ctx.backend == "rq" else "rq")
    if end == "hangs":
        time.sleep(600)
    if end == "taken over":
        take_over(ctx.run_id)
    if end in ("before_commit", "after_commit"):
        event.listen(tx, end, _no_answer, once=True)
    mark(tx, ctx, f"{payload.name}/recorded")
    return object() if end == "not json" else tried


@job("sent-once", event="test.sent-once", payload=Name, queue="tests", gaps=GAPS, attempts=3)
def sent_once(ctx: Context, payload: Name) -> str:
    """Done at most once; an unknown outcome is caught, or with `fail_at` ends the run."""
    try:
        number = ctx.step.once("send", send_once, ctx, payload)
    except OutcomeUnknown as unknown:
        if payload.fail_at:
            raise
        said = str(unknown)
        return ctx.step.run("note", lambda tx: said)
    return ctx.step.run("after", mark, ctx, f"{payload.name}/after/{number}")


@job(
    "sent-at-least-once",
    event="test.sent-at-least-once",
    payload=Name,
    queue="tests",
    gaps=GAPS,
    attempts=3,
    if_unknown=IfUnknown.REPEAT,
)
def sent_at_least_once(ctx: Context, payload: Name) -> str:
    return str(sent_once(ctx, payload))


@job("grab-bag", event="test.grab-bag", payload=Name, queue="tests", gaps=GAPS)
def grab_bag(ctx: Context, payload: Name) -> str:
    """Passes every point a run can pass: steps, a failure, a sleep, children, a move."""

    def first(tx: Session) -> str:
        if touch(ctx, f"{payload.name}/first") == 1:
            raise RuntimeError("first try fails on purpose")
        if payload.moves:
            hand_over(runtime.current().store, [ctx.run_id], payload.moves[1])
        return mark(tx, ctx, f"{payload.name}/first")

    ctx.step.run("first", first)
    with suppress(OutcomeUnknown):
        ctx.step.once("once", lambda tx: touch(ctx, f"{payload.name}/once"))
    ctx.step.sleep("nap", timedelta(seconds=0.1))
    ctx.step.dispatch("start", "child", [{"name": f"{payload.name}/{n}"} for n in range(2)])
    ctx.step.join("ended")
    return ctx.step.run("last", mark, ctx, f"{payload.name}/last")


def key_of(payload: Name) -> str:
    return payload.name


def ticked(occurrence: datetime) -> Name:
    return Name(name=f"{occurrence:%Y-%m-%dT%H:%M}")


TWICE_A_MONTH: dict[str, Any] = {"key": key_of, "tick": ticked, "schedule": "0 9 1,15 * *"}


@job("keyed", event="test.keyed", payload=Name, queue="tests", gaps=GAPS, **TWICE_A_MONTH)
def keyed(ctx: Context, payload: Name) -> str:
    """A job whose payload says what makes it unique, on a schedule."""
    return ctx.step.run("mark", mark, ctx, payload.name)


@job("posted", event="test.posted", payload=Name, queue="tests", gaps=GAPS, serverless="qstash")
def posted(ctx: Context, payload: Name) -> str:
    """A job of QStash's: a step, a sleep, a step that fails `failures` times."""

    def last(tx: Session) -> str:
        what = f"{payload.name}/last"
        if touch(ctx, what) <= payload.failures:
            raise RuntimeError("failed on purpose")
        return mark(tx, ctx, what)

    ctx.step.run("first", mark, ctx, f"{payload.name}/first")
    ctx.step.sleep("nap", timedelta(seconds=payload.wait_seconds))
    return ctx.step.run("last", last)


@job("mixed", event="test.mixed", payload=Name, queue="tests", gaps=GAPS)
def mixed(ctx: Context, payload: Name) -> str:
    """A job of Inngest's with children of QStash's."""
    payloads = [{"name": f"{payload.name}/{number}"} for number in range(2)]
    ctx.step.dispatch("start", "posted", payloads)
    ctx.step.join("ended")
    return ctx.step.run("after", mark, ctx, f"{payload.name}/after")


@job("surroundings", event="test.surroundings", payload=Name, queue="tests", gaps=GAPS)
def surroundings(ctx: Context, payload: Name) -> list[Any]:
    """The Flask app it finds, and what an earlier slice left in the app's context: nothing."""
    found = [current_app.name, g.setdefault("left", ctx.run_id) == ctx.run_id]
    if touch(ctx, payload.name) == 1:
        g.left = "an earlier slice"
        raise RuntimeError("failed on purpose")
    return found


@job("gated", event="test.gated", payload=Name, queue="tests", gaps=GAPS)
def gated(ctx: Context, payload: Name) -> None:
    """Says that it is there, in a file, and waits for the one that its name names."""
    gate = Path(payload.name)

    def wait(_tx: Session) -> None:
        gate.with_suffix(f".{ctx.run_id}").touch()
        while not gate.exists():
            time.sleep(0.02)

    ctx.step.run("wait", wait)

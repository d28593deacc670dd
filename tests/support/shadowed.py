"""Jobs with plans: honest ones, wrong ones, and ones that try to do something."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import EffectHeld, NonRetriable
from app.switchyard.job import JobPayload, Shadow, job
from app.switchyard.runtime import current
from tests.support.marks import Mark, mark


class Order(JobPayload):
    """What the live run does, and what its plan says or tries."""

    name: str
    amount: int = 5
    planned: int = 5
    live_fails: bool = False
    tries: str = ""


def write() -> Any:
    return insert(Mark).values(what="effect", backend="plan", pid=0)


def attempt(tx: Session, what: str) -> None:
    """What no plan may do."""
    runtime = current()
    if what == "raise":
        raise RuntimeError("no plan today")
    if what == "write":
        tx.execute(write())
    if what == "own transaction":
        with runtime.db.session() as own:
            own.execute(write())
    if what == "stripe":
        runtime.engine.gateways.stripe.create_transfer(
            {"amount": 5, "currency": "usd", "destination": "acct_1"}, "k"
        )
    if what == "storage" and runtime.engine.gateways.storage is not None:
        runtime.engine.gateways.storage.put("a/b", b"x", "text/plain")
    if what == "dispatch":
        dispatch("child", {"name": "effect"})
    if what == "quietly":
        with suppress(EffectHeld):
            runtime.engine.gateways.stripe.platform_balance()


def order_plan(tx: Session, payload: Order, now: datetime) -> dict[str, Any]:
    attempt(tx, payload.tries)
    return {"amount": payload.planned, "lines": [{"n": 1, "fee": 1.0}], "at": now.isoformat()}


@job(
    "order",
    event="test.order",
    payload=Order,
    queue="tests",
    gaps=(0.2,),
    plan=order_plan,
    shadow=Shadow(ignore=("at",), tolerance={"lines.*.fee": 0.5}),
)
def order(ctx: Context, payload: Order) -> dict[str, Any]:
    ctx.step.run("mark", mark, ctx, f"order/{payload.name}")
    if payload.live_fails:
        raise NonRetriable("the live run fails")
    return {"amount": payload.amount, "lines": [{"n": 1, "fee": 1.4}], "at": "live"}


@job("planless", event="test.planless", payload=Order, queue="tests")
def planless(ctx: Context, payload: Order) -> str:
    return ctx.step.run("mark", mark, ctx, f"planless/{payload.name}")


@job(
    "posted-order",
    event="test.posted-order",
    payload=Order,
    queue="tests",
    serverless="qstash",
    plan=order_plan,
    shadow=Shadow(ignore=("at", "lines")),
)
def posted_order(ctx: Context, payload: Order) -> dict[str, Any]:
    return {"amount": payload.amount}


def looked(tx: Session, payload: Order, now: datetime) -> dict[str, Any]:
    """A plan that writes to find out, as one may: it is undone."""
    tx.execute(write())
    found = tx.scalar(select(func.count(Mark.id))) or 0
    rows = [{"what": payload.name, "amount": payload.amount}, {"what": "b", "why": "[b]no"}]
    return {"at": now.isoformat(), "found": found, "marks": rows, "none": []}


@job("planned", event="test.planned", payload=Order, queue="tests", plan=looked)
def planned(ctx: Context, payload: Order) -> str:
    return ctx.step.run("only", mark, ctx, payload.name)

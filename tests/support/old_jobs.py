"""The jobs that took the place of functions in `old_tasks`, and those of `tasks`, adopted."""

from __future__ import annotations

from typing import Any

from app.switchyard import adopt
from app.switchyard.context import Context
from app.switchyard.job import JobPayload, Legacy, job
from tests.support.jobs import GAPS
from tests.support.marks import mark

AT = "tests.support.old_tasks"
ADOPTED = "tests.support.tasks"


class Mark(JobPayload):
    name: str
    fail_at: int = 0


class Pay(JobPayload):
    payout_id: str
    amount: int
    note: Any = None


def paid(payout: str, cents: int, note: Any = None) -> dict[str, Any]:
    return {"payout_id": payout, "amount": cents, "note": note}


@job("old-mark", event="old.mark", payload=Mark, queue="tests", gaps=GAPS, legacy=f"{AT}.mark")
def old_mark(ctx: Context, payload: Mark) -> str:
    return ctx.step.run("mark", mark, ctx, payload.name)


@job(
    "old-pay",
    event="old.pay",
    payload=Pay,
    queue="tests",
    gaps=GAPS,
    attempts=2,
    legacy=Legacy(f"{AT}.pay", paid),
)
def old_pay(ctx: Context, payload: Pay) -> dict[str, Any]:
    if payload.amount < 0:
        raise ValueError("on purpose")
    ctx.step.run("mark", mark, ctx, payload.payout_id)
    return {"paid": payload.amount}


@job(
    "old-decorated",
    event="old.decorated",
    payload=Mark,
    queue="tests",
    legacy=f"{AT}.decorated",
)
def old_decorated(ctx: Context, payload: Mark) -> str:
    return ctx.step.run("mark", mark, ctx, payload.name)


@job("old-far", event="old.far", payload=Mark, queue="tests", legacy="nowhere.tasks.far")
def old_far(ctx: Context, payload: Mark) -> str:
    return ctx.step.run("mark", mark, ctx, payload.name)


settle = adopt(f"{ADOPTED}.settle", queue="tests")
count_up = adopt(f"{ADOPTED}.count_up", queue="tests", gaps=GAPS)
after_all = adopt(f"{ADOPTED}.after_all", queue="tests")
handle = adopt(f"{ADOPTED}.handle", queue="tests")
seen = adopt(f"{ADOPTED}.seen", queue="tests", gaps=GAPS)
connected = adopt(f"{AT}.connected", queue="tests")

"""Jobs for the tests of the commands; each says in the table `marks` what it did."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable
from app.switchyard.job import JobPayload, job
from tests.support.marks import Mark, mark

GAPS = (0.2,)


def tried(ctx: Context, what: str) -> int:
    """How often `what` was tried, this time included; counted whether or not the step holds."""
    with ctx.transaction() as tx:
        mark(tx, ctx, what)
        return tx.scalar(select(func.count()).where(Mark.what == what)) or 0


class Named(JobPayload):
    """A name to mark effects with."""

    name: str
    failures: int = 0
    children: int = 3
    wait_seconds: float = 0.0


def looked(tx: Session, payload: Named, now: datetime) -> dict[str, Any]:
    """A plan that writes to find out, as one may: it is undone."""
    tx.execute(insert(Mark).values(what=payload.name, backend="plan", pid=0))
    found = tx.scalar(select(func.count(Mark.id))) or 0
    rows = [{"what": payload.name, "waits": payload.wait_seconds}, {"what": "b", "why": "[b]no"}]
    return {"at": now.isoformat(), "found": found, "marks": rows, "none": []}


@job("cli-planned", event="cli.planned", payload=Named, queue="cli", plan=looked)
def planned(ctx: Context, payload: Named) -> str:
    """Can say beforehand what it would do."""
    return ctx.step.run("only", mark, ctx, payload.name)


@job("cli-plain", event="cli.plain", payload=Named, queue="cli", gaps=GAPS, schedule="0 9 * * *")
def plain(ctx: Context, payload: Named) -> dict[str, str]:
    """Two steps; the second one fails `failures` times first."""

    def second(tx: Session) -> str:
        if tried(ctx, f"{payload.name}/try") <= payload.failures:
            raise RuntimeError("failed on purpose")
        time.sleep(payload.wait_seconds)
        return mark(tx, ctx, f"{payload.name}/second")

    ctx.step.run("first", mark, ctx, f"{payload.name}/first")
    return {"second": ctx.step.run("second", second)}


@job("cli-parent", event="cli.parent", payload=Named, queue="cli", gaps=GAPS, attempts=2)
def parent(ctx: Context, payload: Named) -> dict[str, int]:
    """Children, a wait for them, and a sleep."""
    ctx.step.dispatch(
        "start",
        "cli-plain",
        [{"name": f"{payload.name}/{number}"} for number in range(payload.children)],
    )
    ended = ctx.step.join("ended")
    ctx.step.sleep("nap", timedelta(seconds=payload.wait_seconds))
    ctx.step.run("after", mark, ctx, f"{payload.name}/after")
    return ended


@job("cli-refuser", event="cli.refuser", payload=Named, queue="cli", serverless="qstash")
def refuser(ctx: Context, payload: Named) -> None:
    """A step for which trying again cannot help, until it was tried `failures` times."""

    def refuse(tx: Session) -> None:
        if tried(ctx, payload.name) <= payload.failures:
            raise NonRetriable("never [red]\x1b[31m")

    ctx.step.run("first", mark, ctx, f"{payload.name}/first")
    ctx.step.run("refuse", refuse)

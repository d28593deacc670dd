"""What `make chaos` has done beside the tests' own jobs. Older code is given this file too."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import text

from app.switchyard.context import Context
from app.switchyard.job import job
from tests.support.jobs import GAPS, Name, ticked

MARK = text("INSERT INTO marks (what, backend, pid) VALUES (:what, :backend, :pid)")


@job("outside", event="chaos.outside", payload=Name, queue="tests", gaps=GAPS)
def outside(ctx: Context, payload: Name) -> str:
    """An effect in the world, which knows it again by its key; each try of it is in a log."""

    def act(_tx: Any) -> str:
        line = f"\n{ctx.run_id}/act {payload.name} .\n".encode()
        log = os.open(os.environ["CHAOS_EFFECTS"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            if os.write(log, line) != len(line):
                raise OSError("it broke off: the disk is full")
        finally:
            os.close(log)
        return payload.name

    return ctx.step.run("act", act)


@job(
    "ticked",
    event="chaos.ticked",
    payload=Name,
    queue="tests",
    gaps=GAPS,
    tick=ticked,
    schedule="* * * * *",
)
def every_minute(ctx: Context, payload: Name) -> str:
    """A job that is all the clocks'."""
    row = {"what": f"tick/{payload.name}", "backend": ctx.backend, "pid": os.getpid()}
    ctx.step.run("mark", lambda tx: tx.execute(MARK, row).close())
    return payload.name

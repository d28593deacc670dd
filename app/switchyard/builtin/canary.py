"""A job that does nothing but come back: `cutover verify` sends one through each backend."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.job import JobPayload, job


class Canary(JobPayload):
    """What it sings."""

    song: str


def sing(_tx: Session, song: str) -> str:
    return song


@job("canary", event="runs.canary", payload=Canary, queue="maintenance", gaps=(1.0,), attempts=3)
def canary(ctx: Context, payload: Canary) -> dict[str, str]:
    """One step, and the name of the side it was done on."""
    return {"song": ctx.step.run("sing", sing, payload.song), "backend": ctx.backend}

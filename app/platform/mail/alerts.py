"""Word to the admins of a guardrail that fired: the layer dispatches `guardrail-alert` where an app
declares it."""

from __future__ import annotations

import logging

from pydantic import Field
from sqlalchemy.orm import Session

from app.platform.mail import admins
from app.switchyard.context import Context
from app.switchyard.errors import StepFailed
from app.switchyard.job import JobPayload, job

log = logging.getLogger(__name__)


class SteppedBack(JobPayload):
    """A step back by the guardrail."""

    change_id: int
    job: str
    # `from` is a word of Python's own.
    from_stage: str = Field(alias="from")
    to: str
    percent: float | None = None
    why: str


def _alert_key(payload: SteppedBack) -> str:
    return str(payload.change_id)


@job(
    "guardrail-alert",
    event="cutover.guardrail",
    payload=SteppedBack,
    queue="maintenance",
    key=_alert_key,
)
def guardrail_alert(ctx: Context, payload: SteppedBack) -> dict[str, bool]:
    """Tell the admins that a job stepped back, by mail and webhook; who could be told."""
    told = {}
    for name, send in (("mail", _mail), ("webhook", _webhook)):
        try:
            told[name] = ctx.step.run(name, send, ctx, payload)
        except StepFailed as failed:
            told[name] = False
            log.error("admins not told", extra={"by": name, "reason": str(failed)})
    return told


def _mail(_tx: Session, ctx: Context, payload: SteppedBack) -> bool:
    where = payload.to if payload.percent is None else f"{payload.to} {payload.percent:g} %"
    text = (
        f"{payload.job} stepped back from {payload.from_stage} to {where} by itself.\n\n"
        f"{payload.why}\n\n"
        f"New runs go there within a second; what runs goes on where it is. What is failing:\n"
        f"  flask --app app runs list --job {payload.job} --status failed\n"
        f"To move what is open as well:\n"
        f"  flask --app app cutover drain {payload.job} --to rq --running\n"
    )
    subject = f"{payload.job} stepped back to {where}"
    return bool(admins.mail(ctx, _name(payload), subject=subject, text=text)["sent"])


def _webhook(_tx: Session, ctx: Context, payload: SteppedBack) -> bool:
    data = payload.model_dump(mode="json", by_alias=True)
    return bool(admins.post(ctx, _name(payload), "cutover.stepped_back", data)["sent"])


def _name(payload: SteppedBack) -> str:
    return f"guardrail-{payload.change_id}"

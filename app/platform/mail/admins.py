"""Mail and webhooks to the admins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from app.platform.gateways.hooks import HookRefused
from app.platform.gateways.smtp import MailRefused, MailUnknown
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.errors import BadInput, StepFailed
from app.switchyard.job import JobPayload, job

log = logging.getLogger(__name__)


def notify(
    ctx: Context,
    name: str,
    letter: Callable[[], Mapping[str, str]],
    event: str,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Send a letter (subject, text, optionally html) by mail and `data` by webhook, in a step each.

    For both, returns {"sent": true}, or false and `why`: no failure here stops the run. After a
    crash before its record, either is resent with the same Message-ID or webhook-id, made from
    `name`; a mail with an unknown outcome is not. A webhook's `timestamp` is the run's creation.
    """
    gateways, mailer = ctx.gateways, ctx.gateways.mailer

    def mail(_tx: Session) -> dict[str, Any]:
        message_id = f"<{name}@{mailer.domain}>"
        try:
            mailer.send(to=gateways.admin_email, **letter(), message_id=message_id, now=ctx.now())
        except MailUnknown as unknown:
            return _not_sent("mail", f"unknown, not sent again: {unknown}")
        except (MailRefused, BadInput) as refused:
            return _not_sent("mail", f"refused: {refused}")
        return {"sent": True}

    def webhook(_tx: Session) -> dict[str, Any]:
        body = {"type": event, "timestamp": iso(ctx.created_at), "data": dict(data)}
        try:
            gateways.admin_hook.post(body, name, ctx.now())
        except (HookRefused, BadInput) as refused:
            return _not_sent("webhook", f"refused: {refused}")
        return {"sent": True}

    sent: dict[str, Any] = {}
    for send, is_on in ((mail, mailer and gateways.admin_email), (webhook, gateways.admin_hook)):
        way = send.__name__
        if not is_on:  # it costs no step
            sent[way] = {"sent": False, "why": "off"}
            continue
        try:
            sent[way] = ctx.step.run(f"notify-{way}", send)
        except StepFailed as failed:
            sent[way] = _not_sent(way, failed.reason)
    return sent


def _not_sent(what: str, why: str) -> dict[str, Any]:
    log.warning("the admin's %s was not sent: %s", what, why)
    return {"sent": False, "why": why}


class SteppedBack(JobPayload):
    """A step back by the guardrail: the layer dispatches `guardrail-alert` where an app has it."""

    change_id: int
    job: str
    # `from` is a keyword in Python.
    from_stage: str = Field(alias="from")
    to: str
    percent: float | None = None
    why: str


@job(
    "guardrail-alert",
    event="cutover.guardrail",
    payload=SteppedBack,
    queue="maintenance",
    key=lambda payload: str(payload.change_id),
)
def guardrail_alert(ctx: Context, payload: SteppedBack) -> dict[str, Any]:
    """Notify the admins that a job stepped back; see notify()."""
    name = f"guardrail-{payload.change_id}"
    where = payload.to if payload.percent is None else f"{payload.to} {payload.percent:g} %"
    letter = {
        "subject": f"{payload.job} stepped back to {where}",
        "text": f"{payload.job} stepped back from {payload.from_stage} to {where} by itself.\n\n"
        f"{payload.why}\n\n"
        "New runs go there within a second; what runs goes on where it is.\n",
    }
    data = payload.model_dump(mode="json", by_alias=True)
    return notify(ctx, name, lambda: letter, "cutover.stepped_back", data)

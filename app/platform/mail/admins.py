"""Mail and webhooks to the admins, each the whole of a step: what cannot be sent is a result that
says so, and only what may pass by itself is raised, for the step's own retries."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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


def mail(ctx: Context, name: str, **letter: str) -> dict[str, Any]:
    """Mail subject, text and maybe html; {"sent": false, "why": …} where it did not go.

    After a crash before its record it is sent again, under the same Message-ID (`name`); one whose
    outcome is unknown is not. Raises MailUnavailable.
    """
    mailer, to = ctx.gateways.mailer, ctx.gateways.admin.email
    if mailer is None or to is None:
        return {"sent": False, "why": "off"}
    try:
        message_id = f"<{name}@{mailer.domain}>"
        mailer.send(to=to, **letter, message_id=message_id, now=ctx.now())
    except (MailRefused, BadInput) as refused:
        return _not_sent("mail", f"refused: {refused}")
    except MailUnknown as unknown:
        return _not_sent("mail", f"unknown, not sent again: {unknown}")
    return {"sent": True}


def post(ctx: Context, name: str, type_: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Post to the webhook, under the webhook-id `name`; as `mail` where it did not go.

    `timestamp` is when the run was asked for, UTC: sent twice, it is the same. Raises
    HookUnavailable.
    """
    hook = ctx.gateways.admin.hook
    if hook is None:
        return {"sent": False, "why": "off"}
    body = {"type": type_, "timestamp": iso(ctx.created_at), "data": dict(data)}
    try:
        hook.post(body, name, ctx.now())
    except (HookRefused, BadInput) as refused:
        return _not_sent("webhook", f"refused: {refused}")
    return {"sent": True}


def _not_sent(what: str, why: str) -> dict[str, Any]:
    log.warning("the admin's %s was not sent: %s", what, why)
    return {"sent": False, "why": why}


class SteppedBack(JobPayload):
    """A step back by the guardrail: the layer dispatches `guardrail-alert` where an app has it."""

    change_id: int
    job: str
    # `from` is a word of Python's own.
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
def guardrail_alert(ctx: Context, payload: SteppedBack) -> dict[str, bool]:
    """Notify the admins that a job stepped back, by mail and webhook: which was sent."""
    name = f"guardrail-{payload.change_id}"
    where = payload.to if payload.percent is None else f"{payload.to} {payload.percent:g} %"
    letter = {
        "subject": f"{payload.job} stepped back to {where}",
        "text": f"{payload.job} stepped back from {payload.from_stage} to {where} by itself.\n\n"
        f"{payload.why}\n\n"
        f"New runs go there within a second; what runs goes on where it is. What is failing:\n"
        f"  flask --app app runs list --job {payload.job} --status failed\n"
        f"To move what is open as well:\n"
        f"  flask --app app cutover drain {payload.job} --to rq --running\n",
    }

    def by_mail(_tx: Session) -> bool:
        return bool(mail(ctx, name, **letter)["sent"])

    def by_webhook(_tx: Session) -> bool:
        data = payload.model_dump(mode="json", by_alias=True)
        return bool(post(ctx, name, "cutover.stepped_back", data)["sent"])

    sent = {}
    for way, send in (("mail", by_mail), ("webhook", by_webhook)):
        try:
            sent[way] = ctx.step.run(way, send)
        except StepFailed as failed:
            sent[way] = False
            log.error("admins not notified", extra={"by": way, "reason": str(failed)})
    return sent

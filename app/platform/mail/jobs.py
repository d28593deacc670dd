"""Mail, one run each: at most once, since mail takes no idempotency key."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from app.platform.gateways.address import mail_address
from app.platform.mail import JOB, sending
from app.platform.mail.models import MailStatus
from app.platform.mail.render import checked, render
from app.switchyard.context import Context
from app.switchyard.errors import OutcomeUnknown, StepFailed
from app.switchyard.job import IfUnknown, JobPayload, job

YEAR_OF_MINUTES = 366 * 24 * 60


class Email(JobPayload):
    """A template, filled in, to one address, `delayMinutes` after it was asked for."""

    to: Annotated[str, AfterValidator(mail_address)]
    template: str
    data: dict[str, Any] = Field(default_factory=dict)
    delay_minutes: float = Field(default=0, ge=0, le=YEAR_OF_MINUTES, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self) -> Email:
        checked(self.template, self.data)
        return self


def _delay(payload: Email) -> timedelta:
    return timedelta(minutes=payload.delay_minutes)


@job(
    JOB,
    event="email.send",
    payload=Email,
    queue="email",
    serverless="qstash",
    delay=_delay,
    # Of two evils: a mail that may be missing is on a list; the same mail twice is in a mailbox.
    if_unknown=IfUnknown.RECORD,
)
def send_email(ctx: Context, payload: Email) -> dict[str, Any]:
    """Send it; what became of it as `outcome`.

    An unknown outcome ends the run well, as `unknown`: it has not failed, and no retry repeats it.
    """
    to = payload.to
    letter = render(payload.template, payload.data, platform=ctx.gateways.platform)
    record = ctx.step.run("admit", sending.admit, ctx, to, payload.template, letter.subject)
    if record["status"] == MailStatus.SUPPRESSED:
        return {"outcome": record["status"], "why": record["why"]}
    try:
        return ctx.step.once("send", sending.send, ctx, to, letter)
    except OutcomeUnknown as unclear:
        return ctx.step.run("unknown", sending.unknown, ctx, str(unclear))
    except StepFailed as no:
        sending.failed(ctx, no.reason)
        raise

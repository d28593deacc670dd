"""The job that sends a mail, at most once, since mail has no idempotency keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from sqlalchemy.orm import Session

from app.platform.gateways.address import mail_address
from app.platform.gateways.smtp import MailRefused, MailUnavailable, MailUnknown
from app.platform.mail import JOB
from app.platform.mail.render import Letter, checked, render
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, NotDone, OutcomeUnknown
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


@job(
    JOB,
    event="email.send",
    payload=Email,
    queue="email",
    serverless="qstash",
    delay=lambda payload: timedelta(minutes=payload.delay_minutes),
    # The lesser evil: a mail that may be missing is listed, but a second one is in a mailbox.
    if_unknown=IfUnknown.RECORD,
)
def send_email(ctx: Context, payload: Email) -> dict[str, Any]:
    """Send it. A run whose outcome is unknown fails, and says so: no retry of it sends again."""
    letter = render(payload.template, payload.data, platform=ctx.gateways.platform)
    return ctx.step.once("send", _send, ctx, payload.to, letter)


def _send(_tx: Session, ctx: Context, to: str, letter: Letter) -> dict[str, Any]:
    """Hand the mail to the server, as a step that is done at most once.

    Raises NotDone where it may be retried, NonRetriable where the server refuses it or SMTP_URL is
    not set, and OutcomeUnknown where the connection broke after it was handed over.
    """
    mailer = ctx.gateways.mailer
    if mailer is None:
        raise NonRetriable("SMTP_URL is not set: there is nothing to send mail with")
    message_id = f"<{ctx.run_id}@{mailer.domain}>"
    try:
        mailer.send(to=to, **letter._asdict(), message_id=message_id, now=ctx.now())
    except MailUnavailable as failure:
        raise NotDone(str(failure)) from failure
    except MailRefused as no:
        raise NonRetriable(str(no)) from no
    except MailUnknown as unclear:
        raise OutcomeUnknown(str(unclear)) from unclear
    return {"outcome": "sent", "messageId": message_id}

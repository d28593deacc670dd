"""Mail to creators and admins: templates, what was sent, and the way in of the migration guide."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.switchyard import Run, runtime
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BadInput

JOB = "send-email"
log = logging.getLogger(__name__)


def send_email_delayed(
    to: str,
    template: str,
    data: Mapping[str, Any],
    delay_minutes: float = 0,
    *,
    key: str | None = None,
    session: Session | None = None,
) -> Run:
    """Send `template` filled with `data` to one address, not before `delay_minutes` from now.

    The guide's `sendEmailDelayed`: a run of the job `send-email`, with all that dispatch() says of
    `key` and `session`. Raises PayloadInvalid where there is no such template or its data do not
    fit, and whatever dispatch() raises; nothing is written then.
    """
    payload: dict[str, Any] = {"to": to, "template": template, "data": dict(data)}
    if delay_minutes:
        payload["delayMinutes"] = delay_minutes
    return dispatch(JOB, payload, key=key, session=session)


def mailing() -> bool:
    """Whether there is a mail server to send with."""
    return runtime.current().engine.gateways.mailer is not None


def mail_creator(
    tx: Session, name: str, email: str, template: str, data: Mapping[str, Any], key: str
) -> None:
    """Mail a creator what `tx` has just written, with it or not at all.

    A mail that cannot be made is left out and logged: it stops no money and no statement.
    """
    try:
        send_email_delayed(email, template, {"name": name, **data}, key=key, session=tx)
    except BadInput as misfit:
        log.warning("creator is not mailed", extra={"key": key, "why": str(misfit)})

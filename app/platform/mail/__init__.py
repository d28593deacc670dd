"""Mail to creators and admins, with the migration guide's `sendEmailDelayed`."""

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
    """Send `template`, filled in with `data`, at least `delay_minutes` from now.

    This is the guide's `sendEmailDelayed`: it dispatches the job `send-email`, with dispatch()'s
    `key` and `session`. Raises PayloadInvalid for an unknown template or unfit data, and whatever
    dispatch() raises; nothing is written then.
    """
    payload: dict[str, Any] = {"to": to, "template": template, "data": dict(data)}
    if delay_minutes:
        payload["delayMinutes"] = delay_minutes
    return dispatch(JOB, payload, key=key, session=session)


def mailing() -> bool:
    """Whether there is a mail server."""
    return runtime.current().engine.gateways.mailer is not None


def mail_creator(
    tx: Session, name: str, email: str, template: str, data: Mapping[str, Any], key: str
) -> None:
    """Mail a creator about what `tx` has just written, in the same transaction.

    A mail that cannot be made is skipped and logged: it stops neither money nor statements.
    """
    try:
        send_email_delayed(email, template, {"name": name, **data}, key=key, session=tx)
    except BadInput as misfit:
        log.warning("creator is not mailed", extra={"key": key, "why": str(misfit)})

"""Mail to creators and admins: templates, what was sent, and the way in of the migration guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.switchyard.dispatch import dispatch
from app.switchyard.runs.run import Run

JOB = "send-email"


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

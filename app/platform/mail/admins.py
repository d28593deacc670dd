"""Telling the admins by mail and webhook, each the whole of a step: what cannot be sent is a result
that says so, and only what may pass by itself is raised, for the step's own retries."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from app.platform.gateways.hooks import HookRefused
from app.platform.gateways.smtp import MailRefused, MailUnknown
from app.switchyard.clock import iso
from app.switchyard.context import Context
from app.switchyard.errors import BadInput

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

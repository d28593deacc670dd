"""QStash's deliveries: each runs one whole slice of a run, in the calling request."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from typing import Any

from flask import Blueprint, Flask, Response, request
from sqlalchemy import bindparam, select

from app.switchyard.crash import point
from app.switchyard.http import problem, register_problems, traced
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.relay import RESEND
from app.switchyard.runtime import Runtime
from workflows.qstash import DELIVER, FAILED, Sent, read_sent, unix
from workflows.signature import signed

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024
MAX_CALLBACK_BYTES = 2 * 1024 * 1024
"""A failure callback holds the answer that our own endpoint gave, and its headers."""
NEVER = 489
"""QStash's status for what is not to be tried again."""

_GIVEN_UP = RESEND.where(R.holder.is_(None)).values(error=bindparam("new_error"))
"""Sent again, with a note of what became of the message."""


def register(app: Flask, runtime: Runtime) -> None:
    """Mount both endpoints."""
    pages = Blueprint("switchyard_qstash", __name__)
    register_problems(pages)
    traced(pages)

    @pages.post(DELIVER)
    def deliver() -> Response:
        sent = read_sent(signed(request, runtime.settings, DELIVER, MAX_BYTES).text)
        if sent is None:
            return _never("the body names no run")
        delivery = Delivery(f"qstash-{os.urandom(8).hex()}", sent_at=sent.sent_at)
        return _answer(runtime, sent, runtime.engine.perform(sent.run, sent.epoch, delivery))

    @pages.post(FAILED)
    def failed() -> Response:
        text = signed(request, runtime.settings, FAILED, MAX_CALLBACK_BYTES).text
        callback = _read_callback(text)
        if callback is None:
            return _never("the body is no failure callback")
        return _ok("sent again" if _given_up(runtime, callback) else "nothing to do")

    app.register_blueprint(pages)


def _answer(runtime: Runtime, sent: Sent, outcome: Outcome) -> Response:
    """The outcome of a slice in QStash's words.

    What goes on later is resent here, so that no relay is needed for it; a crash before that
    leaves it to the relay.
    """
    match outcome.end:
        case End.DONE | End.NOT_MINE:
            return _ok(outcome.end)
        case End.FAILED:
            return _never("the run failed")
        case End.NOT_DUE | End.BUSY if outcome.due_at is None or sent.at == unix(outcome.due_at):
            # Come early, by a clock that is ahead: this very message is to come again.
            answer = problem(503, "Not due yet", "come again")
            wait = 1 if outcome.due_at is None else sent.at - runtime.store.clock().timestamp()
            answer.headers["Retry-After"] = str(max(1, int(wait) + 1))
            return answer
        case _:
            point("qstash.unsent")
            runtime.store.send([sent.run])
            return _ok(outcome.end)


def _ok(what: str) -> Response:
    return Response(json.dumps({"end": str(what)}), content_type="application/json")


def _never(detail: str) -> Response:
    answer = problem(NEVER, "Not to be tried again", detail)
    answer.headers["Upstash-NonRetryable-Error"] = "true"
    return answer


def _read_callback(text: str) -> tuple[Sent, str, str] | None:
    """The run, the dead message's id, and what our endpoint had answered; None if it is none."""
    try:
        body: Any = json.loads(text)
        sent = read_sent(base64.b64decode(body["sourceBody"], validate=True).decode())
        # The documentation spells it as QStash once sent it.
        source = body.get("sourceMessageId") or body["sourceMessasgeId"]
        status = body.get("status")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        return None
    if sent is None or not isinstance(source, str):
        return None
    return sent, source, str(status)[:10]


def _given_up(runtime: Runtime, callback: tuple[Sent, str, str]) -> bool:
    """Send a run again whose message is dead; False where it has gone on without it."""
    sent, source, status = callback
    now = runtime.store.clock()
    chosen = select(R.check_at).where(
        R.id == sent.run,
        R.epoch == sent.epoch,
        R.sent_ref == source,
        R.status.in_([Status.PENDING, Status.WAITING]),
    )
    with runtime.db.autocommit() as connection:
        check_at = connection.execute(chosen).scalar_one_or_none()
        if check_at is None:
            return False
        bound = {
            "run_id": sent.run,
            "seen_epoch": sent.epoch,
            "seen_check_at": check_at,
            "new_check_at": max(now, check_at) + runtime.store.check,
            "new_idle_since": now,
            "new_error": f"qstash: could not be delivered, the last answer was {status}",
        }
        if connection.execute(_GIVEN_UP, bound).rowcount != 1:
            return False
    log.warning("message dead; its run is sent again", extra={"run": sent.run, "status": status})
    runtime.store.send([sent.run])
    return True

"""QStash's deliveries. Each one performs a whole slice of a run within the request."""

from __future__ import annotations

import os
from typing import Annotated

from flask import Blueprint, Flask, Response, request
from flask.typing import ResponseReturnValue
from pydantic import AliasChoices, Base64Str, BaseModel, Field, ValidationError
from sqlalchemy import bindparam, select

from app.switchyard.clock import moment
from app.switchyard.crash import point
from app.switchyard.http import problem, register_problems, traced
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.relay import RESEND
from app.switchyard.runtime import Runtime
from workflows.qstash import DELIVER, FAILED, Sent, unix
from workflows.signature import signed

log = logger_of(__name__)

MAX_BYTES = 16 * 1024
MAX_CALLBACK_BYTES = 2 * 1024 * 1024
"""A failure callback contains the answer of our own endpoint, with its headers."""
NEVER = 489
"""The status that tells QStash not to retry."""

_GIVEN_UP = RESEND.where(R.holder.is_(None)).values(error=bindparam("new_error"))
"""Resends the run, with a note of what became of its message."""


def register(app: Flask, runtime: Runtime) -> None:
    """Mount both endpoints."""
    pages = Blueprint("switchyard_qstash", __name__)
    register_problems(pages)
    traced(pages)

    @pages.post(DELIVER)
    def deliver() -> ResponseReturnValue:
        text = signed(request, runtime.settings, DELIVER, MAX_BYTES).text
        try:
            sent = Sent.model_validate_json(text)
        except ValidationError:
            return _never("the body names no run")
        # A run that was sent ahead counts from when it was due.
        sent_at = None if sent.sent is None else moment(max(sent.at, sent.sent))
        delivery = Delivery(f"qstash-{os.urandom(8).hex()}", sent_at=sent_at)
        return _answer(runtime, sent, runtime.engine.perform(sent.run, sent.epoch, delivery))

    @pages.post(FAILED)
    def failed() -> ResponseReturnValue:
        text = signed(request, runtime.settings, FAILED, MAX_CALLBACK_BYTES).text
        try:
            callback = _Callback.model_validate_json(text)
            sent = Sent.model_validate_json(callback.body)
        except ValidationError:
            return _never("the body is no failure callback")
        return {"end": "sent again" if _given_up(runtime, callback, sent) else "nothing to do"}

    app.register_blueprint(pages)


def _answer(runtime: Runtime, sent: Sent, outcome: Outcome) -> ResponseReturnValue:
    """The answer to QStash for the outcome of a slice.

    A run that continues later is sent again here and needs no relay. After a crash before that, the
    relay sends it.
    """
    match outcome.end:
        case End.DONE | End.NOT_MINE:
            return {"end": outcome.end}
        case End.FAILED:
            return _never("the run failed")
        case End.NOT_DUE | End.BUSY if outcome.due_at is None or sent.at == unix(outcome.due_at):
            # A clock that is ahead delivered it early. The same message must come again.
            answer = problem(503, "Not due yet", "come again")
            wait = 1 if outcome.due_at is None else sent.at - runtime.store.clock().timestamp()
            answer.headers["Retry-After"] = str(max(1, int(wait) + 1))
            return answer
        case _:
            point("qstash.unsent")
            runtime.store.send([sent.run])
            return {"end": outcome.end}


def _never(detail: str) -> Response:
    answer = problem(NEVER, "Not to be tried again", detail)
    answer.headers["Upstash-NonRetryable-Error"] = "true"
    return answer


class _Callback(BaseModel):
    """What QStash says of a message that it has given up."""

    body: Annotated[Base64Str, Field(alias="sourceBody")]
    # The documentation still spells it as QStash once did.
    ref: Annotated[str, Field(validation_alias=AliasChoices("sourceMessageId", "sourceMessasgeId"))]
    status: object = None
    """The status of our endpoint's last answer."""


def _given_up(runtime: Runtime, callback: _Callback, sent: Sent) -> bool:
    """Resend a run whose message is dead. False where the run has continued without it."""
    status = str(callback.status)[:10]
    now = runtime.store.clock()
    chosen = select(R.check_at).where(
        R.id == sent.run,
        R.epoch == sent.epoch,
        R.sent_ref == callback.ref,
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
            "seen_ref": callback.ref,
            "new_check_at": max(now, check_at) + runtime.store.check,
            "new_idle_since": now,
            "new_error": f"qstash: not delivered, the last answer was {status}",
        }
        if connection.execute(_GIVEN_UP, bound).rowcount != 1:
            return False
    log.warning("message dead, so its run is resent", extra={"run": sent.run, "status": status})
    runtime.store.send([sent.run])
    return True

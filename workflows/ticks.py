"""What a call of the trigger endpoint that QStash made means: a tick, or a run of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.switchyard import nonces
from app.switchyard.clock import iso
from app.switchyard.cutover.clock import tick
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import BackendUnavailable, Unauthorized
from app.switchyard.job import JobSpec
from app.switchyard.runs.create import Run
from app.switchyard.runtime import Runtime
from workflows.qstash import find, make_client
from workflows.signature import Signed
from workflows.sync import schedule_id

_TICK, _RUN = "tick", "run"
NEAR = timedelta(minutes=1)
"""How far behind its scheduled time QStash may make a tick's message."""


@dataclass(frozen=True, slots=True)
class Call:
    """A trigger call that QStash made: what it signed, and the headers beside that."""

    signed: Signed
    message_id: str | None
    schedule_id: str | None
    retried: bool


def start(
    runtime: Runtime, spec: JobSpec, data: dict[str, Any], key: str | None, call: Call
) -> Run:
    """The run that a signed trigger call means; the same message again is the same run.

    A schedule's call with no data is a tick of the job's own schedule, so it becomes the run that
    any other clock's tick of that occurrence became. What a signature was first taken for it stands
    for, whatever is sent beside it again. Raises BackendUnavailable where nobody can say which
    occurrence it is; QStash then comes again.
    """
    if key is not None or (data and spec.key is not None):
        return dispatch(spec.name, data, key=key)
    nonce, expires_at = f"qstash:{call.signed.token_id}", call.signed.expires_at
    meant = nonces.used_for(runtime.db, nonce)
    if meant is None:
        meant = nonces.use(runtime.db, nonce, _meant(runtime, spec, data, call), expires_at)
    what, _, of = meant.partition(" ")
    if what == _TICK:
        return tick(spec, datetime.fromisoformat(of))
    return dispatch(spec.name, data, key=of or None)


def _meant(runtime: Runtime, spec: JobSpec, data: dict[str, Any], call: Call) -> str:
    if call.schedule_id is not None and spec.schedule is not None and not data:
        made_at = _made_at(runtime, spec, call)
        occurrence = spec.occurrence_at(made_at)
        # One made by hand, as the migration guide shows, is a tick where it ticks in time with us.
        if call.schedule_id == schedule_id(spec) or made_at - occurrence < NEAR:
            return f"{_TICK} {iso(occurrence)}"
    return _RUN if spec.key is not None else f"{_RUN} qstash:{_message(call)}"


def _message(call: Call) -> str:
    return call.message_id or call.signed.token_id


def _made_at(runtime: Runtime, spec: JobSpec, call: Call) -> datetime:
    """When the schedule made this message: what a tick's occurrence follows from.

    A signature speaks only of its own delivery, which may be hours late, so QStash is asked about
    the message. A first delivery of one that it does not know speaks for itself, and so does one
    in time while it cannot be asked.
    """
    signed_at = call.signed.issued_at
    first, stored = not call.retried, None
    unknown = BackendUnavailable("qstash: it does not know the tick's message")
    try:
        if call.message_id is not None:
            stored = find(make_client(runtime.settings), call.message_id)
    except BackendUnavailable as failure:
        unknown = failure
        first &= signed_at - spec.occurrence_at(signed_at) < NEAR
    if stored is not None:
        if stored.schedule_id != call.schedule_id:
            raise Unauthorized("the message is of another schedule")
        return datetime.fromtimestamp(stored.created_at / 1000, UTC)
    if first:
        return signed_at
    raise unknown

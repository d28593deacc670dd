"""Write new runs: one row per intent, unique by (job, key)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from app.switchyard.clock import ceil_ms
from app.switchyard.context import Payload
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput, KeyConflict, PayloadInvalid
from app.switchyard.job import JobSpec
from app.switchyard.runs import statements
from app.switchyard.runs.backend import Message
from app.switchyard.runs.ledger import AnyRow
from app.switchyard.runs.models import RunRow, Status, new_run_id
from app.switchyard.runs.run import Run
from flags import Decision

KEY_LENGTH = 255
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class NewRun:
    """An intent, validated and ready to be written."""

    id: str
    key: str
    keyed: bool
    """Whether the key was given or follows from the payload; else it is the run's own id."""
    payload: str
    ramp_key: str
    due_at: datetime


def new_run(spec: JobSpec, payload: Payload | None, key: str | None, due_at: datetime) -> NewRun:
    """Validate an intent; what its payload says of a delay comes on top of `due_at`.

    Raises PayloadInvalid or BadInput.
    """
    model = spec.parse(payload)
    later = None if spec.delay is None else spec.delay(model)
    run_id = new_run_id()
    chosen = key if key is not None else spec.key(model) if spec.key is not None else None
    if chosen is not None and not 0 < len(chosen) <= KEY_LENGTH:
        raise BadInput(f"key must have 1 to {KEY_LENGTH} characters, not {len(chosen)}")
    try:
        text = canonical_json(model.model_dump(mode="json", by_alias=True, exclude_unset=True))
    except (TypeError, ValueError) as unfit:
        raise PayloadInvalid(f"{spec.name}: payload is not JSON: {unfit}") from None
    by = None if spec.ramp_by is None else getattr(model, spec.ramp_by, None)
    return NewRun(
        id=run_id,
        key=chosen if chosen is not None else run_id,
        keyed=chosen is not None,
        payload=text,
        ramp_key=str(by) if by is not None else chosen if chosen is not None else run_id,
        due_at=due_at if later is None else ceil_ms(due_at + later),
    )


def write_runs(
    on: Connection | Session,
    spec: JobSpec,
    items: Sequence[tuple[NewRun, Decision]],
    now: datetime,
    check: timedelta,
    *,
    waiting_backends: frozenset[str],
    parent_id: str | None = None,
) -> list[Run]:
    """Write the intents; those known already come back as they stand, with `created` false.

    `check` is how long they may stay unclaimed before the relay asks; on a backend that keeps no
    time itself a later one is first looked at when due. Raises KeyConflict where a key stands for
    another payload (then nothing may be committed).
    """
    rows = [
        {
            "id": new.id,
            "job": spec.name,
            "key": new.key,
            "payload": new.payload,
            "backend": decision.backend,
            "reason": decision.reason,
            "stage": decision.stage,
            "stage_version": decision.version,
            "status": Status.PENDING,
            "epoch": 1,
            "sends": 0,
            "attempt": 1,
            "losses": 0,
            "parent_id": parent_id,
            "created_at": now,
            "due_at": new.due_at,
            "check_at": new.due_at
            if new.due_at > now and decision.backend not in waiting_backends
            else new.due_at + check,
        }
        for new, decision in items
    ]
    dialect = (on.get_bind() if isinstance(on, Session) else on).dialect.name
    connection = on.connection() if isinstance(on, Session) else on
    # Always in the same order: two that write the same keys at once would wait in a circle.
    rows.sort(key=lambda row: str(row["key"]))
    written = connection.execute(statements.INSERT[dialect], rows if len(rows) > 1 else rows[0])
    complete = written.rowcount == len(rows)
    known = {} if complete else _known(on, spec, [new for new, _ in items if new.keyed])
    return [_as_run(spec, new, decision, known.get(new.key)) for new, decision in items]


def _known(on: Connection | Session, spec: JobSpec, news: Sequence[NewRun]) -> dict[str, AnyRow]:
    R = RunRow
    columns = (R.id, R.key, R.payload, R.backend, R.reason, R.status)
    known: dict[str, AnyRow] = {}
    keys = [new.key for new in news]
    for start in range(0, len(keys), _CHUNK):
        chosen = select(*columns).where(R.job == spec.name, R.key.in_(keys[start : start + _CHUNK]))
        known.update((row.key, row) for row in on.execute(chosen))
    return known


def _as_run(spec: JobSpec, new: NewRun, decision: Decision, row: AnyRow | None) -> Run:
    if row is None or row.id == new.id:
        return Run(
            new.id, spec.name, new.key, decision.backend, decision.reason, Status.PENDING, True
        )
    if row.payload != new.payload and not _same(spec, row.payload, new.payload):
        raise KeyConflict(
            f"{spec.name}: key {new.key!r} is used by run {row.id} with another payload"
        )
    return Run(row.id, spec.name, row.key, row.backend, row.reason, row.status, False)


def _same(spec: JobSpec, one: str, other: str) -> bool:
    """Equal as today's model reads them: a default spelled out is the same payload."""
    try:
        return spec.parse(json.loads(one), strict=False) == spec.parse(
            json.loads(other), strict=False
        )
    except PayloadInvalid:
        return False


def as_messages(
    spec: JobSpec, items: Sequence[tuple[NewRun, Decision]], written: Sequence[Run]
) -> list[Message]:
    """The messages to send about the runs that were created."""
    return [
        Message(
            run_id=new.id,
            job=spec.name,
            backend=decision.backend,
            queue=spec.queue,
            event=spec.event,
            payload=new.payload,
            epoch=1,
            sends=0,
            due_at=new.due_at,
            timeout=spec.timeout,
        )
        for (new, decision), run in zip(items, written, strict=True)
        if run.created
    ]

"""Write new runs, unique by (job, key), and the shadows that go with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.switchyard import telemetry
from app.switchyard.clock import ceil_ms
from app.switchyard.context import Payload
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput, KeyConflict, PayloadInvalid
from app.switchyard.job import JobSpec
from app.switchyard.runs.backend import Message
from app.switchyard.runs.models import AnyRow, Status, new_run_id, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.store import RunStore, chunks
from app.switchyard.text import plain
from flags import Decision, Reason, Stage

KEY_LENGTH = 255
_FRESH = {"status": Status.PENDING.value, "epoch": 1, "sends": 0, "attempt": 1, "losses": 0}
SHADOW_JOB = "shadow-compare"

_INSERT = {
    name: insert(runs)
    .on_conflict_do_nothing(index_elements=["job", "key"])
    .execution_options(preserve_rowcount=True)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was recorded."""

    id: str
    job: str
    key: str
    backend: str
    reason: str
    status: str
    created: bool
    """False where a run with this job and key existed already."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is validated and ready to be written."""

    id: str
    key: str
    keyed: bool
    """Whether the key was given or derived from the payload; otherwise it is the run's own id."""
    payload: str
    ramp_key: str
    due_at: datetime
    meta: str | None = None
    """The initial contents of rq's `job.meta`, as JSON."""


def new_run(spec: JobSpec, payload: Payload | None, key: str | None, due_at: datetime) -> NewRun:
    """Validate what is asked for. A delay that the payload asks for is added to `due_at`.

    Raises PayloadInvalid or BadInput.
    """
    model = spec.parse(payload)
    later = None if spec.delay is None else spec.delay(model)
    run_id = new_run_id()
    chosen = key if key is not None else spec.key(model) if spec.key is not None else None
    if chosen is not None:
        plain("key", chosen, KEY_LENGTH)
    try:
        text = canonical_json(model.model_dump(mode="json", by_alias=True, exclude_unset=True))
    except (TypeError, ValueError) as unfit:
        raise PayloadInvalid(f"{spec.name}: payload is not JSON: {unfit}") from None
    own = chosen if chosen is not None else run_id
    by = None if spec.ramp_by is None else getattr(model, spec.ramp_by, None)
    return NewRun(
        id=run_id,
        key=own,
        keyed=chosen is not None,
        payload=text,
        ramp_key=own if by is None else str(by),
        due_at=due_at if later is None else ceil_ms(due_at + later),
    )


def meta_json(meta: Mapping[str, Any]) -> str:
    """rq's `job.meta` as JSON. Raises BadInput where JSON cannot represent it."""
    try:
        return canonical_json(to_jsonable_python(meta))
    except (TypeError, ValueError) as unfit:
        raise BadInput(f"meta is not JSON: {unfit}") from None


def write_runs(
    on: Connection | Session | None,
    store: RunStore,
    spec: JobSpec,
    items: Sequence[tuple[NewRun, Decision]],
    now: datetime,
    *,
    parent_id: str | None = None,
) -> list[Run]:
    """Write the runs, and a shadow for each new one that gets one.

    A run that exists already is returned as it stands, with `created` false. A single run without
    a shadow needs no connection. Raises KeyConflict where a key was used with another payload; the
    caller must not commit then.
    """
    if not items:
        return []
    written = _write(on, store, spec, items, now, parent_id)
    shadows = []
    for (new, decision), run in zip(items, written, strict=True):
        if run.created and wants_shadow(store, spec, decision):
            shadow = new_run(store.catalogue[SHADOW_JOB], {"runId": run.id}, None, new.due_at)
            chosen = decision._replace(backend=spec.serverless, reason=Reason.SHADOW.value)
            shadows.append((shadow, chosen))
    if shadows:
        # The relay sends them, so that the live run's caller does not wait for a second queue.
        _write(on, store, store.catalogue[SHADOW_JOB], shadows, now, None, send_at=now)
    return written


def wants_shadow(store: RunStore, spec: JobSpec, decision: Decision) -> bool:
    """Whether a run with this decision gets a shadow, for which its job needs a plan."""
    return (
        decision.stage == Stage.SHADOW
        and decision.reason != Reason.DISABLED
        and spec.plan is not None
        and SHADOW_JOB in store.catalogue
    )


def _write(
    on: Connection | Session | None,
    store: RunStore,
    spec: JobSpec,
    items: Sequence[tuple[NewRun, Decision]],
    now: datetime,
    parent_id: str | None,
    send_at: datetime | None = None,
) -> list[Run]:
    trace = telemetry.spans.traceparent()
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
            **_FRESH,
            "meta": new.meta,
            "trace": trace,
            "parent_id": parent_id,
            "created_at": now,
            "due_at": new.due_at,
            "check_at": new.due_at + store.check,
            "send_at": store.unsent(decision.backend, new.due_at, now) or send_at,
        }
        for new, decision in items
    ]
    # Always in the same order: two callers that write the same keys at once would deadlock.
    rows.sort(key=lambda row: str(row["key"]))
    insert = _INSERT[store.db.engine.dialect.name]
    if on is None:
        ((new, decision),) = items
        if store.db.change(insert, rows[0]) == 1 or not new.keyed:
            return [_as_run(spec, new, decision, None)]
        with store.db.autocommit() as reading:
            return [_as_run(spec, new, decision, _known(reading, spec, [new.key]).get(new.key))]
    connection = on.connection() if isinstance(on, Session) else on
    complete = connection.execute(insert, rows if len(rows) > 1 else rows[0]).rowcount == len(rows)
    known = {} if complete else _known(connection, spec, [new.key for new, _ in items if new.keyed])
    return [_as_run(spec, new, decision, known.get(new.key)) for new, decision in items]


def _known(connection: Connection, spec: JobSpec, keys: Sequence[str]) -> dict[str, AnyRow]:
    columns = (R.id, R.key, R.payload, R.backend, R.reason, R.status)
    of_job = select(*columns).where(R.job == spec.name)
    return {
        row.key: row
        for some in chunks(keys)
        for row in connection.execute(of_job.where(R.key.in_(some)))
    }


def _as_run(spec: JobSpec, new: NewRun, decision: Decision, row: AnyRow | None) -> Run:
    job, (backend, reason, *_) = spec.name, decision
    if row is None or row.id == new.id:
        return Run(new.id, job, new.key, backend, reason, Status.PENDING, True)
    if row.payload != new.payload and not _same(spec, row.payload, new.payload):
        raise KeyConflict(f"{job}: key {new.key!r} is used by run {row.id} with another payload")
    return Run(row.id, job, row.key, row.backend, row.reason, row.status, False)


def _same(spec: JobSpec, one: str, other: str) -> bool:
    """Whether today's model reads both alike: spelling out a default makes no other payload."""
    try:
        first, second = (spec.parse(json.loads(text), strict=False) for text in (one, other))
    except PayloadInvalid:
        return False
    return first == second


def new_messages(
    spec: JobSpec, items: Sequence[tuple[NewRun, Decision]], written: Sequence[Run]
) -> list[Message]:
    """The messages for those runs that are new."""
    trace = telemetry.spans.traceparent()
    return [
        Message(new.id, spec, decision.backend, new.payload, 1, 0, new.due_at, trace=trace)
        for (new, decision), run in zip(items, written, strict=True)
        if run.created
    ]

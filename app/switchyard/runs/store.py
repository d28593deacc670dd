"""The ledger of runs as one process uses it: it writes new runs, unique by (job, key), with the
shadows that go with them, and sends them to their backends."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar

from pydantic_core import to_jsonable_python
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.switchyard import effects, telemetry
from app.switchyard.clock import Clock, ceil_ms
from app.switchyard.context import Payload
from app.switchyard.db import INSERT, Database, canonical_json
from app.switchyard.errors import (
    BackendUnavailable,
    BadInput,
    KeyConflict,
    PayloadInvalid,
    UnknownJob,
)
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Backends, Message, Refused
from app.switchyard.runs.models import ACCEPTED, NOT_SENT, AnyRow, Status, new_run_id, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.text import plain, reason
from flags import Decision, Reason, Stage

log = logger_of(__name__)
T = TypeVar("T")

_REF = re.compile("[!-~]{1,255}")
"""A reference that can be stored. Any other is dropped, as if the backend had given none."""
CHUNK = 500
"""How many runs are read or written at a time, so that the write lock is never held for long."""
SENT = (R.id, R.job, R.backend, R.payload, R.epoch, R.sends, R.due_at, R.sent_ref, R.trace)
"""The columns from which a message is made."""

# Skips a run that has changed backend meanwhile: its new backend does not have this message.
_SAVE = update(runs).where(
    R.id == bindparam("run"), R.check_at.is_not(None), R.backend == bindparam("sent_to")
)
_SAVE_REF = _SAVE.values(**ACCEPTED, sent_ref=bindparam("ref"))
_SAVE_REFUSAL = _SAVE.values(error=bindparam("why"))

KEY_LENGTH = 255
_FRESH = {"status": Status.PENDING.value, "epoch": 1, "sends": 0, "attempt": 1, "losses": 0}
SHADOW_JOB = "shadow-compare"

_INSERT = {
    name: insert(runs)
    .on_conflict_do_nothing(index_elements=["job", "key"])
    .execution_options(preserve_rowcount=True)
    for name, insert in INSERT.items()
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


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def by_backend(items: Iterable[Any]) -> dict[str, list[Any]]:
    """Rows or messages by their backend, in their order."""
    found: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        found[item.backend].append(item)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class RunStore:
    """Where runs are kept and where they are sent."""

    db: Database
    clock: Clock
    catalogue: Catalogue
    backends: Backends
    lease: timedelta
    """How long a claim lasts without a heartbeat."""
    check: timedelta
    """How long a run may stay unclaimed after it was sent before the relay looks at it."""
    not_sent: Callable[[str], None] = lambda _why: None
    """Called with the reason whenever a backend cannot be sent runs."""

    def unsent(self, backend: str, due: datetime, now: datetime) -> datetime | None:
        """When the relay must send a run to this backend, or None where that is not its task.

        The relay sends a run that is due later to a backend that does not wait for due times.
        """
        return due if due > now and not self.backends.waits_until_due(backend) else None

    def spec_of(self, job: str) -> JobSpec | None:
        """The job's declaration, or None (and a log line) where this code does not know the job."""
        try:
            return self.catalogue[job]
        except UnknownJob:
            log.error("run left for other code: its job is not known here", extra={"job": job})
            return None

    def messages(self, rows: Iterable[AnyRow]) -> list[Message]:
        """The messages for these rows of SENT, leaving out unknown jobs."""
        now = self.clock()
        return [
            Message(
                *(r.id, spec, r.backend, r.payload, r.epoch, r.sends, r.due_at, r.sent_ref),
                *(now, r.trace),
            )
            for r in rows
            if (spec := self.spec_of(r.job)) is not None
        ]

    def take_back(self, rows: Iterable[AnyRow]) -> None:
        """Ask the backends of these rows of SENT to forget their messages, as far as they can."""
        for backend, messages in by_backend(self.messages(rows)).items():
            try:
                self.backends[backend].cancel(messages)
            except BackendUnavailable as failure:
                log.warning(
                    "messages not taken back; they will find a newer epoch and do nothing",
                    extra={"backend": backend, "runs": len(messages), "reason": str(failure)},
                )

    def send(self, run_ids: Sequence[str]) -> None:
        """Send these runs to their backends. What fails is left to the relay."""
        silent: set[str] = set()  # each further try would wait as long as the first
        for some in chunks(run_ids):  # no more payloads at once, since they may be large
            chosen = select(*SENT).where(R.id.in_(some), R.backend.not_in(silent))
            try:
                rows = self.db.rows(chosen.order_by(R.id))
            except SQLAlchemyError as failure:
                log.warning("runs not sent yet; the relay will", extra={"reason": reason(failure)})
                return
            silent |= self.send_messages(self.messages(rows))

    def send_messages(self, messages: Sequence[Message]) -> set[str]:
        """Send each message that its backend can take now, and record what it answers. Returns the
        backends that failed. That is logged: their runs stay pending, and the relay sends them."""
        effects.allow("sending to a queue")
        now = self.clock()
        ready = [m for m in messages if m.due_at <= now or self.backends.waits_until_due(m.backend)]
        failed: set[str] = set()
        for name, group in by_backend(ready).items():
            with telemetry.spans.send(group):
                try:
                    answers = self.backends[name].send(group)
                except BackendUnavailable as failure:
                    telemetry.spans.failed(failure)
                    self.not_sent(str(failure))
                    log.warning(
                        "not sent to the backend; the runs stay pending",
                        extra={"backend": name, "runs": len(group), "reason": str(failure)},
                    )
                    failed.add(name)
                    continue
            self._save(group, answers)
        return failed

    def _save(self, messages: Sequence[Message], answers: Mapping[str, str]) -> None:
        """Record the backend's references, and the errors of the runs that it refuses."""
        refs: list[dict[str, str]] = []
        refusals: list[dict[str, str]] = []
        # Newest first: everyone who locks several runs does so in this order.
        for message in sorted(messages, key=attrgetter("run_id"), reverse=True):
            row = {"run": message.run_id, "sent_to": message.backend}
            answer = answers.get(message.run_id, "")
            if isinstance(answer, Refused):
                self.not_sent(answer)
                refusals.append(row | {"why": f"{NOT_SENT}{answer}"})
                shown = {"job": message.spec.name, "run": message.run_id, "reason": str(answer)}
                log.error("its backend refuses a run, which stays pending", extra=shown)
            elif _REF.fullmatch(answer):
                refs.append(row | {"ref": answer})
        try:
            for statement, rows in ((_SAVE_REF, refs), (_SAVE_REFUSAL, refusals)):
                for some in chunks(rows):
                    if len(some) == 1:  # in one round trip rather than three
                        self.db.change(statement, some[0])
                        continue
                    with self.db.begin() as connection:
                        connection.execute(statement, some)
        except SQLAlchemyError as failure:
            # A run without its reference may be sent twice, which its claim makes harmless.
            log.warning("answers of a backend not recorded", extra={"reason": reason(failure)})


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

    They are all written or none: in the caller's transaction, or with `on` None in one of their
    own. A run that exists already is returned as it stands, with `created` false. Raises
    KeyConflict where a key was used with another payload; the caller must not commit then.
    """
    if not items:
        return []
    if on is None and (len(items) > 1 or _wants_shadow(store, spec, items[0][1])):
        with store.db.begin() as connection:
            return write_runs(connection, store, spec, items, now, parent_id=parent_id)
    written = _write(on, store, spec, items, now, parent_id)
    shadows = []
    for (new, decision), run in zip(items, written, strict=True):
        if run.created and _wants_shadow(store, spec, decision):
            shadow = new_run(store.catalogue[SHADOW_JOB], {"runId": run.id}, None, new.due_at)
            chosen = decision._replace(backend=spec.serverless, reason=Reason.SHADOW.value)
            shadows.append((shadow, chosen))
    if shadows:
        # The relay sends them, so that the live run's caller does not wait for a second queue.
        _write(on, store, store.catalogue[SHADOW_JOB], shadows, now, None, send_at=now)
    return written


def _wants_shadow(store: RunStore, spec: JobSpec, decision: Decision) -> bool:
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

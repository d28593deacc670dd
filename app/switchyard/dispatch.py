"""dispatch(): the only way in, and the only caller of flags.decide()."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

import flags
from app.switchyard import hosts, runtime, telemetry
from app.switchyard.clock import as_utc, ceil_ms
from app.switchyard.context import Payload
from app.switchyard.crash import point
from app.switchyard.errors import BadInput
from app.switchyard.job import JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs.store import (
    NewRun,
    Run,
    RunStore,
    meta_json,
    new_messages,
    new_run,
    write_runs,
)

log = logger_of(__name__)

Delay = timedelta | float | None
_UNSENT = "switchyard_unsent"


@dataclass(frozen=True, slots=True)
class Item:
    """One run of a `dispatch_many`. A bare payload is an Item without a key or a delay."""

    payload: Payload | None = None
    key: str | None = None
    delay: Delay = None
    at: datetime | None = None
    meta: Mapping[str, Any] | None = None
    """The initial value of rq's `get_current_job().meta` in an adopted function."""


def dispatch(
    job: str,
    payload: Payload | None = None,
    *,
    key: str | None = None,
    delay: Delay = None,
    at: datetime | None = None,
    session: Session | scoped_session[Any] | None = None,
) -> Run:
    """Record a run of `job`, and send it to the backend that the flag chooses.

    `key` makes the run unique: the same key means the same run, which is returned with `created`
    false. `delay` is in seconds or a timedelta, `at` a time with a zone. With `session`, which must
    use the layer's database, the run is written in the caller's transaction and sent only after its
    commit. A run whose backend is unreachable stays pending, and the relay sends it.

    Raises UnknownJob, PayloadInvalid, BadInput, and KeyConflict where the key was used with another
    payload. Nothing is written then.
    """
    return dispatch_many(job, [Item(payload, key, delay, at)], session=session)[0]


def dispatch_many(
    job: str,
    items: Iterable[Item | Payload],
    *,
    session: Session | scoped_session[Any] | None = None,
) -> list[Run]:
    """Record many runs of `job` at once, all or none. See dispatch()."""
    at_work = runtime.current()
    store, decide = at_work.store, at_work.flags.decide
    spec = store.catalogue[job]
    now = store.clock()
    decided = [(new, decide(job, new.ramp_key)) for new in _news(spec, items, now)]
    if not decided:
        return []
    with telemetry.spans.dispatch(job, len(decided), decided[0][0].id):
        if session is not None:
            target = session() if isinstance(session, scoped_session) else session
            return _join(store, spec, decided, now, target)
        return _send(store, spec, decided, now)


def dispatch_canary(job: str, payload: Payload, backend: str) -> Run:
    """Record and send a run on the named side, whatever the flag says, with reason CANARY.

    Raises BackendUnavailable where this process does not have that backend.
    """
    store = runtime.current().store
    spec = store.catalogue[job]
    _ = store.backends[backend]
    now = store.clock()
    decision = flags.Decision(backend, flags.Reason.CANARY, flags.Stage.LEGACY, 0)
    decided = [(new, decision) for new in _news(spec, [payload], now)]
    with telemetry.spans.dispatch(job, len(decided), decided[0][0].id):
        return _send(store, spec, decided, now)[0]


def _send(
    store: RunStore,
    spec: JobSpec,
    decided: Sequence[tuple[NewRun, flags.Decision]],
    now: datetime,
) -> list[Run]:
    written = write_runs(None, store, spec, decided, now)
    point("dispatch.committed")
    store.send_messages(new_messages(spec, decided, written))
    point("dispatch.sent")
    return written


def _news(spec: JobSpec, items: Iterable[Item | Payload], now: datetime) -> list[NewRun]:
    news: list[NewRun] = []
    for given in items:
        item = given if isinstance(given, Item) else Item(given)
        if item.payload is not None and not isinstance(item.payload, Mapping | BaseModel):
            raise BadInput(
                f"{spec.name}: a payload is a mapping, not {type(item.payload).__name__}"
            )
        new = new_run(spec, item.payload, item.key, _due(item, now))
        news.append(replace(new, meta=meta_json(item.meta)) if item.meta else new)
    return news


def _due(item: Item, now: datetime) -> datetime:
    if item.delay is not None and item.at is not None:
        raise BadInput("give delay or at, not both")
    if item.delay is None and item.at is None:
        return now
    try:
        due = now + _wait(item.delay) if item.at is None else as_utc(item.at)
        return max(now, ceil_ms(due))
    except (OverflowError, ValueError):  # infinite, not a number, or past the calendar's end
        raise BadInput("delay or at: this time is out of range") from None


def _wait(delay: Delay) -> timedelta:
    wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay or 0)
    if wait < timedelta(0):
        raise BadInput("delay must not be negative")
    return wait


def _join(
    store: RunStore,
    spec: JobSpec,
    decided: Sequence[tuple[NewRun, flags.Decision]],
    now: datetime,
    session: Session,
) -> list[Run]:
    """Write in the caller's transaction. A commit sends the runs, and a rollback forgets them."""
    connection = session.connection()
    if store.db.is_sqlite and not hosts.has_begun(connection):
        # The driver begins only before the first change. An earlier savepoint would commit.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    if len(decided) == 1:
        written = write_runs(session, store, spec, decided, now)
    else:
        with session.begin_nested():  # a conflict half way leaves the caller's own work intact
            written = write_runs(session, store, spec, decided, now)
    unsent: dict[RunStore, list[str]] = session.info.setdefault(_UNSENT, defaultdict(list))
    unsent[store].extend(run.id for run in written if run.created)
    return written


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    if _UNSENT in session.info and not session.in_nested_transaction():
        # Read back from the ledger, since a rolled-back savepoint takes its runs with it.
        for store, run_ids in session.info.pop(_UNSENT).items():
            store.send(run_ids)


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_UNSENT, None)

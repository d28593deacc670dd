"""A claimed run and everything that its holder may write: steps, waits, a move, the end."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.switchyard import telemetry
from app.switchyard.crash import point
from app.switchyard.db import INSERT
from app.switchyard.errors import LeaseLost
from app.switchyard.logs import logger_of
from app.switchyard.runs import children
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.models import (
    ENDED,
    VOID,
    AnyRow,
    Status,
    StepStatus,
    failures,
    is_any,
    new,
    runs,
    steps,
)
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.record import Failure, handed_over
from app.switchyard.runs.store import RunStore
from flags import LEGACY_BACKEND, Reason

log = logger_of(__name__)

CLAIMED_COLUMNS = (
    R.id.label("run_id"),
    *(R.job, R.key, R.payload, R.backend, R.epoch, R.parent_id, R.created_at, R.move_to, R.trace),
)
"""The columns that a claim returns: fields of a ClaimedRun."""

# Built once, since every call from a service reads the steps.
_RECORDED = select(S.name, S.status, S.attempts, S.result, S.error, S.until).where(
    S.run_id == bindparam("of_run")
)
# The fence: matches the run only as long as the claim stands.
_CLAIMED = update(runs).where(
    R.id == bindparam("run_id"),
    R.epoch == bindparam("claimed_epoch"),
    R.status == Status.RUNNING,
)
_ASKED = R.move_to.is_not(None)
_MOVED = {**VOID, "backend": R.move_to, "reason": Reason.HANDED_OVER.value, "move_to": null()}
_NEW = new(runs, "status", "holder", "due_at", "check_at", "attempt")


def _moved(when: ColumnElement[bool], **stays: Any) -> dict[str, Any]:
    """The values of a run that moves if it was asked to, and else keeps `stays`.

    A run moves as soon as it is given back: its holder may never return, and what the run waits for
    may take days.
    """
    return {
        name: case((when, value), else_=stays.get(name, runs.c[name]))
        for name, value in _MOVED.items()
    }


_RENEW = _CLAIMED.values(new(runs, "check_at"))
_NOTE = {name: _CLAIMED.values(new(runs, name)) for name in ("progress", "meta")}
_STEP_DONE = _CLAIMED.values(
    **_moved(and_(_NEW["status"] == Status.WAITING, _ASKED)),
    **new(runs, "status", "check_at", "idle_since"),
    slot=case((_NEW["status"] == Status.RUNNING, R.slot), else_=null()),
    attempt=1,
    losses=0,
).returning(R.move_to, R.epoch, R.backend)
_RELEASE = _CLAIMED.values(
    **_moved(
        _ASKED,
        holder=_NEW["holder"],
        sends=0,
        # A message that was consumed no longer says where the run is.
        sent_ref=case((_NEW["holder"].is_(None), null()), else_=R.sent_ref),
    ),
    **new(runs, "due_at", "error", "check_at"),
    status=Status.WAITING,
    slot=null(),
    # RQ does not wait for due times, so the relay sends it a run that moves there, when it is due.
    send_at=case(
        (R.move_to == LEGACY_BACKEND, bindparam("new_moved_send_at", type_=R.send_at.type)),
        (_ASKED, null()),
        else_=bindparam("new_send_at", type_=R.send_at.type),
    ),
    attempt=func.coalesce(_NEW["attempt"], R.attempt),
).returning(R.epoch, R.backend)
_MOVE = (
    _CLAIMED.where(_ASKED)
    .values(**_MOVED, **new(runs, "due_at", "check_at"), status=Status.WAITING, slot=null())
    .returning(R.epoch, R.backend)
)
_END = _CLAIMED.values(**ENDED, **new(runs, "status", "ended_at", "result", "error"))
_STEP = new(steps, "status", "attempts", "backend", "result", "error", "until", "updated_at")
_BEGAN = new(steps, "began_at")["began_at"]
_LASTS = is_any(steps.c.status, StepStatus.WAITING, StepStatus.BEGUN)
_IS_OVER = is_any(steps.c.status, StepStatus.DONE, StepStatus.FAILED, StepStatus.UNKNOWN)
_SAVE_STEP = {
    name: insert(steps)
    .values(run_id=bindparam("run_id"), name=bindparam("name"), **_STEP, began_at=_BEGAN)
    .on_conflict_do_update(
        index_elements=["run_id", "name"],
        set_={**_STEP, "began_at": case((_LASTS, S.began_at), else_=_BEGAN)},
        # A commit whose outcome was lost may have succeeded: what is done stays done.
        where=~_IS_OVER,
    )
    for name, insert in INSERT.items()
}


@dataclass(eq=False, slots=True)
class ClaimedRun:
    """A run that one delivery holds. Every write is fenced by the claim's epoch, and raises
    LeaseLost once the run has been taken over."""

    store: RunStore
    delivery: Delivery
    claimed_at: datetime
    run_id: str
    job: str
    key: str
    payload: str
    backend: str
    epoch: int
    parent_id: str | None
    created_at: datetime
    move_to: str | None
    """The backend to move to at the next step boundary."""
    trace: str | None = None
    """The W3C traceparent of the dispatch, where that was traced."""
    given_back: bool = False
    """Whether a step ended this slice."""
    moved: bool = False
    """Whether the run changed backend when it was given back."""
    began_at: datetime | None = None
    """When the current attempt, at a step or at the body, began."""

    def recorded_steps(self) -> dict[str, AnyRow]:
        """The steps that earlier slices recorded, by name."""
        if self.epoch == 2:  # never claimed before
            return {}
        rows = self.store.db.rows(_RECORDED, {"of_run": self.run_id})
        return {row.name: row for row in rows}

    def renew(self, connection: Connection) -> None:
        """Renew the lease, in a transaction that has begun: the wait for SQLite's lock is over
        then, and does not shorten the lease."""
        self._write(connection, _RENEW, check_at=self.store.clock() + self.store.lease)

    def note(self, column: str, value: str, wait_seconds: float | None = None) -> None:
        """Write `progress` or `meta` at once, whatever becomes of the step."""
        with self.store.db.autocommit(wait_seconds) as connection:
            self._write(connection, _NOTE[column], **{column: value})

    def begin_step(self, name: str, attempts: int) -> None:
        """Record that attempt number `attempts` at a step is about to begin."""
        with self.store.db.begin() as connection:
            self.renew(connection)
            self._save_step(connection, name, StepStatus.BEGUN, attempts)

    def end_step(
        self, tx: Session, name: str, status: StepStatus, attempts: int, **ends: str
    ) -> None:
        """Record a step's `result` or `error` for good, in the transaction of its effects.

        Renews the lease, or gives the run back where the backend calls again for the next step.
        Call `send_if_moved` after the commit.
        """
        connection = tx.connection()  # first, since it may wait for SQLite's lock
        self.given_back = again = self.delivery.ends()
        now = self.store.clock()
        row = self._write(
            connection,
            _STEP_DONE,
            status=Status.WAITING if again else Status.RUNNING,
            check_at=now + (self.store.check if again else self.store.lease),
            idle_since=now,
        )
        self._save_step(connection, name, status, attempts, **ends)
        self.move_to = row.move_to
        self._see_move(connection, row)

    def failed(self, connection: Connection, failure: Failure) -> None:
        """Add a failed attempt to the history kept for people."""
        telemetry.spans.failed(failure.cause)
        of = {"run_id": self.run_id, "job": self.job, "backend": self.backend}
        times = {"began_at": self.began_at, "at": self.store.clock()}
        connection.execute(insert(failures), failure.values() | of | times)

    def send_if_moved(self) -> bool:
        """After the commit, send a run that has moved to its new backend. Whether it has moved."""
        if self.moved:
            log.info("run handed over when it was given back")
            point("run.moved")
            self.store.send([self.run_id])
        return self.moved

    def retry(self, step: str, failure: Failure, error: str, due: datetime) -> Outcome:
        """Record a failed attempt and give the run back until `due`."""
        said, attempts = f"{step}: {error}", failure.attempt
        with self.store.db.begin() as connection:
            self._save_step(connection, step, StepStatus.RETRYING, attempts, error=error)
            self._release(connection, due, attempts + 1, said)
            self.failed(connection, failure)
        point("step.failure-recorded")
        return self._given_back(Outcome(End.RETRY, error=said, due_at=due))

    def wait(self, step: str, until: datetime | None, due: datetime) -> Outcome:
        """Record that a sleep (`until`) or a join (None) began; give the run back until `due`."""
        with self.store.db.begin() as connection:
            self.began_at = self.store.clock()
            self._save_step(connection, step, StepStatus.WAITING, until=until)
            self._release(connection, due, 1)
            # If the last child ended after the body looked, it found nobody to wake.
            woken = [] if until else children.wake(connection, self.store, self.run_id)
        outcome = self._given_back(Outcome(End.WAIT, due_at=due))
        self.store.send(woken)
        return outcome

    def give_up(self, *, wait: timedelta = timedelta(0), error: str | None = None) -> Outcome:
        """Let go of the run as it stands. Nothing failed; anyone may continue it after `wait`."""
        with self.store.db.begin() as connection:
            self._release(connection, self.store.clock() + wait, None, error, to_anyone=True)
        return self._given_back(Outcome(End.YIELDED, error=error))

    def move(self) -> bool:
        """Move to the backend that was asked for, which makes every earlier message void.

        False where the run is to stay after all.
        """
        now = self.store.clock()
        bound = self._bound(due_at=now, check_at=now + self.store.check)
        with self.store.db.begin() as connection:
            row = connection.execute(_MOVE, bound).one_or_none()
            if row is None:
                self.renew(connection)
                return False
            self._see_move(connection, row)
        point("run.moved")
        self.store.send([self.run_id])
        return True

    def end(
        self,
        status: Status,
        result: str | None,
        error: str | None,
        failure: Failure | None = None,
    ) -> None:
        """End the run, and wake a parent that waited for its last child."""
        values: dict[str, Any] = {"status": status, "result": result, "error": error}
        values["ended_at"] = self.store.clock()
        if self.parent_id is None and failure is None:
            if self.store.db.change(_END, self._bound(**values)) != 1:
                raise self._lost()
            return
        woken = list[str]()
        with self.store.db.begin() as connection:
            self._write(connection, _END, **values)
            if failure is not None:
                self.failed(connection, failure)
            if self.parent_id is not None:
                woken = children.wake(connection, self.store, self.parent_id)
        self.store.send(woken)

    def _given_back(self, outcome: Outcome) -> Outcome:
        return Outcome(End.NOT_MINE) if self.send_if_moved() else outcome

    def _release(
        self,
        connection: Connection,
        due: datetime,
        attempt: int | None,
        error: str | None = None,
        *,
        to_anyone: bool = False,
        sent: bool = False,
    ) -> None:
        again = self.delivery.calls_again
        stays = again and not to_anyone
        # A delivery whose service does not call again sends it the message for the next slice.
        waits = stays or (not again and self.store.backends.waits_until_due(self.backend))
        row = self._write(
            connection,
            _RELEASE,
            due_at=due,
            check_at=due + self.store.check,
            send_at=None if waits or sent else due,
            moved_send_at=due if due > self.store.clock() else None,
            holder=self.delivery.holder if stays else None,
            attempt=attempt,
            error=error,
        )
        self._see_move(connection, row)

    def _see_move(self, connection: Connection, row: Any) -> None:
        """Note whether the write moved the run to another backend, and record the hand-off."""
        self.moved = row.epoch != self.epoch
        if self.moved:
            before = (self.run_id, self.job, self.backend, self.epoch)
            handed_over(connection, [before], row.backend, self.store.clock())

    def _save_step(
        self, connection: Connection, name: str, status: StepStatus, attempts: int = 1, **more: Any
    ) -> None:
        values = {"status": status, "attempts": attempts, "backend": self.backend}
        values |= {"result": None, "error": None, "until": None, "updated_at": self.store.clock()}
        values["began_at"] = self.began_at
        bound = {f"new_{column}": value for column, value in {**values, **more}.items()}
        statement = _SAVE_STEP[self.store.db.engine.dialect.name]
        connection.execute(statement, {"run_id": self.run_id, "name": name, **bound})

    def _bound(self, **values: Any) -> dict[str, Any]:
        bound = {f"new_{column}": value for column, value in values.items()}
        return {"run_id": self.run_id, "claimed_epoch": self.epoch, **bound}

    def _write(self, connection: Connection, statement: Update, **values: Any) -> Any:
        done = connection.execute(statement, self._bound(**values))
        row: Any = done.one_or_none() if done.returns_rows else done.rowcount
        if not row:
            raise self._lost()
        return row

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"run {self.run_id} was taken over from epoch {self.epoch}")


def put_back(store: RunStore, claimed: Iterable[ClaimedRun]) -> None:
    """Let go of claimed runs that have not begun, and send them again."""
    # Newest first: everyone who locks several runs does so in this order.
    unbegun = sorted(claimed, key=attrgetter("run_id"), reverse=True)
    with store.db.begin() as connection:
        for one in unbegun:
            with suppress(LeaseLost):
                one._release(connection, store.clock(), None, to_anyone=True, sent=True)
    store.send([one.run_id for one in unbegun])

"""A run this process holds, and all it may do with it; every write is fenced by the claim."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.switchyard.crash import point
from app.switchyard.runs import ledger, statements
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.ledger import Claim
from app.switchyard.runs.models import Status, StepStatus
from app.switchyard.runs.store import RunStore

log = logging.getLogger(__name__)


class Hold:
    """A claimed run in a delivery's hands. Each method raises LeaseLost if it was taken over."""

    def __init__(self, store: RunStore, claim: Claim, delivery: Delivery) -> None:
        self.store = store
        self.claim = claim
        self.delivery = delivery
        self.moved = False
        """Whether giving the run back moved it to another backend."""

    def send_if_moved(self) -> None:
        """After the commit: send the run to the backend it has moved to."""
        if self.moved:
            log.info("run handed over as it was given back")
            point("run.moved")
            self.store.send([self.claim.run_id])

    def given_back(self, outcome: Outcome) -> Outcome:
        """`outcome`, or that the run is not this backend's any more."""
        return Outcome(End.NOT_MINE) if self.moved else outcome

    def begin(self, name: str, attempts: int) -> None:
        """Record, before it is done, that try number `attempts` of a step begins."""
        with self.store.db.begin() as connection:
            now = self.store.clock()
            bound = self.claim.fence(lease_until=now + self.store.lease)
            ledger.fenced(connection.execute(statements.RENEW, bound).rowcount, self.claim)
            ledger.save_step(connection, self.claim, name, StepStatus.BEGUN, now, attempts=attempts)

    def step_done(
        self,
        tx: Session,
        name: str,
        status: StepStatus,
        attempts: int,
        *,
        result: str | None = None,
        error: str | None = None,
    ) -> bool:
        """Record a step that is done or failed for good, in the transaction of its effects.

        Renews the lease, or gives it back where the backend calls again for the next step. True if
        the run is to move to another backend now.
        """
        tx.connection()  # SQLite's lock is waited for before the time is read
        now = self.store.clock()
        ends = self.delivery.calls_again
        bound = self.claim.fence(
            new_status=Status.WAITING if ends else Status.RUNNING,
            new_check_at=now + (self.store.check if ends else self.store.lease),
        )
        rows = tx.execute(statements.STEP_DONE, bound).all()
        ledger.fenced(len(rows), self.claim)
        ledger.save_step(
            tx, self.claim, name, status, now, attempts=attempts, result=result, error=error
        )
        self.moved = rows[0].epoch != self.claim.epoch
        return rows[0].move_to is not None

    def retry(self, step: str, attempts: int, error: str, due: datetime) -> None:
        """Record failed attempt number `attempts` and give the run back until `due`."""
        with self.store.db.begin() as connection:
            ledger.save_step(
                connection,
                self.claim,
                step,
                StepStatus.RETRYING,
                self.store.clock(),
                attempts=attempts,
                error=error,
            )
            self._give_back(connection, due, attempts + 1, f"{step}: {error}")
        point("step.failure-recorded")
        self.send_if_moved()

    def wait(self, step: str, until: datetime | None, due: datetime) -> None:
        """Record that a sleep (`until`) or a join (None) began; give the run back until `due`."""
        now = self.store.clock()
        with self.store.db.begin() as connection:
            ledger.save_step(connection, self.claim, step, StepStatus.WAITING, now, until=until)
            self._give_back(connection, due, 1, None)
        self.send_if_moved()

    def give_up(self, due: datetime, error: str | None = None) -> None:
        """Let go of the run as it stands: nothing failed, anyone may go on with it at `due`."""
        bound = self._released(due, self.claim.attempt, error)
        bound |= {"new_check_at": due, "new_holder": None}
        with self.store.db.autocommit() as connection:
            self._release(connection, bound)
        self.send_if_moved()

    def move(self) -> bool:
        """Hand the run to the backend it was asked to move to: every earlier message is void.

        False where it is to stay after all.
        """
        now = self.store.clock()
        bound = self.claim.fence(now=now, new_check_at=now + self.store.check)
        with self.store.db.autocommit() as connection:
            moved = connection.execute(statements.MOVE_HELD, bound).scalar_one_or_none()
            if moved is None:
                bound["lease_until"] = now + self.store.lease
                ledger.fenced(connection.execute(statements.RENEW, bound).rowcount, self.claim)
                return False
        point("run.moved")
        self.store.send([moved])
        return True

    def end(self, status: Status, result: str | None, error: str | None) -> None:
        """Close the run, and wake a parent that waited for its last child."""
        parent = self.claim.parent_id
        now = self.store.clock()
        bound = self.claim.fence(new_status=status, now=now, new_result=result, new_error=error)
        if parent is None:
            with self.store.db.autocommit() as connection:
                ledger.fenced(connection.execute(statements.END, bound).rowcount, self.claim)
            return
        with self.store.db.begin() as connection:
            ledger.fenced(connection.execute(statements.END, bound).rowcount, self.claim)
            woken = ledger.wake_parent(connection, parent, now, now + self.store.check)
        if woken:
            self.store.send([parent])

    def _give_back(
        self, connection: Connection, due: datetime, attempt: int, error: str | None
    ) -> None:
        self._release(connection, self._released(due, attempt, error))

    def _release(self, connection: Connection, bound: dict[str, object]) -> None:
        epochs = connection.execute(statements.RELEASE, bound).scalars().all()
        ledger.fenced(len(epochs), self.claim)
        self.moved = epochs[0] != self.claim.epoch

    def _released(self, due: datetime, attempt: int, error: str | None) -> dict[str, object]:
        stays = self.delivery.calls_again
        # Sent ahead, it waits there by itself, whoever carried this slice.
        waits = stays or self.store.backends.waits_until_due(self.claim.backend)
        return self.claim.fence(
            new_due_at=due,
            new_check_at=due + self.store.check if waits else due,
            new_holder=self.delivery.holder if stays else None,
            new_attempt=attempt,
            new_error=error,
        )

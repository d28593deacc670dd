"""perform(): one slice of a run - claim it, do its body step by step, record each, give it back."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection
from structlog.contextvars import bound_contextvars

from app.switchyard.crash import point
from app.switchyard.db import canonical_json
from app.switchyard.errors import LeaseLost, PayloadInvalid
from app.switchyard.job_errors import NonRetriable, OutcomeUnknown, StepFailed
from app.switchyard.runs import ledger, places
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.context import Pause, RunContext
from app.switchyard.runs.hold import Hold
from app.switchyard.runs.lease import Leases
from app.switchyard.runs.ledger import AnyRow, Bid, Claim
from app.switchyard.runs.models import Status
from app.switchyard.runs.store import RunStore

log = logging.getLogger(__name__)

BODY = "(body)"
"""The step name under which failures outside any step are counted."""
UNKNOWN_JOB_WAIT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Engine:
    """What a process needs to perform runs."""

    store: RunStore
    gateways: Any
    leases: Leases

    def perform(self, run_id: str, epoch: int, delivery: Delivery) -> Outcome:
        """Do one slice of the run, if it still stands at `epoch` and is due.

        Never raises for what the body does: failures are recorded and come back as an Outcome. What
        the delivery itself raises through the body (the end of an Inngest step) passes through, as
        does a database that is gone: then the lease runs out and the run is taken over.
        """
        store = self.store
        now = store.clock()
        bid = Bid(run_id, epoch, delivery.holder, now, now + store.lease)
        with store.db.autocommit() as connection:
            claimed = self._claim(connection, bid, delivery)
        if isinstance(claimed, Outcome):
            return claimed
        with bound_contextvars(
            run_id=run_id, job=claimed.job, backend=claimed.backend, epoch=claimed.epoch
        ):
            self.leases.hold(claimed)
            if store.clock() - now > store.lease / 3:
                self.leases.renew([claimed])  # the claim waited for a lock: much of it is over
            point("run.claimed")
            try:
                return self._slice(Hold(store, claimed, delivery))
            except LeaseLost as lost:
                log.warning("slice void: %s", lost)
                return Outcome(End.NOT_MINE)
            finally:
                self.leases.drop(claimed)

    def _slice(self, hold: Hold) -> Outcome:
        spec = self.store.spec_of(hold.claim.job)
        if spec is None:
            # Newer code wrote it, or older code reads it: another process may know the job.
            hold.give_up(self.store.clock() + UNKNOWN_JOB_WAIT, error="unknown job")
            return Outcome(End.NOT_MINE, error="unknown job")
        context = RunContext(hold, spec, self.gateways)
        try:
            context.boundary()
            payload = spec.parse(json.loads(hold.claim.payload), strict=False)
            result = spec.body(context, payload)
            return _succeed(hold, result)
        except Pause as pause:
            return pause.outcome
        except (StepFailed, OutcomeUnknown, NonRetriable, PayloadInvalid) as final:
            return _fail(hold, str(final))
        except LeaseLost:
            raise
        except Exception as failure:  # noqa: BLE001 - any error of a body is recorded and retried
            return _body_failed(hold, context, spec.attempts, failure)
        except (KeyboardInterrupt, SystemExit):
            hold.give_up(self.store.clock())
            raise

    def _claim(self, connection: Connection, bid: Bid, delivery: Delivery) -> Claim | Outcome:
        """The run, or why it is not to be had."""
        caps = self.store.caps
        claimed = ledger.claim(connection, bid, tuple(caps))
        if claimed is not None:
            return claimed
        row = ledger.standing(connection, bid.run_id)
        refusal = _refusal(row, bid)
        cap = None if row is None else caps.get(row.job)
        if row is None or refusal is not None or cap is None:
            return refusal or Outcome(End.NOT_MINE)
        # Who keeps time comes back by itself, and its calls are not to be held up.
        wait = 0.0 if delivery.calls_again else places.WAIT_SECONDS
        claimed = places.claim(connection, bid, row.job, cap, wait)
        if claimed is not None:
            return claimed
        patience = self.store.check if delivery.calls_again else timedelta(0)
        due = places.put_off(connection, bid, patience)
        if due is not None:
            return Outcome(End.NOT_DUE, due_at=due)
        return _refusal(ledger.standing(connection, bid.run_id), bid) or Outcome(End.NOT_MINE)


def _refusal(row: AnyRow | None, bid: Bid) -> Outcome | None:
    """What speaks against the bid; None where nothing does any more, or only a place is wanting."""
    if row is None or row.check_at is None:
        return Outcome(End.NOT_MINE)
    if row.holder == bid.by:
        if row.status == Status.RUNNING and row.check_at >= bid.now:
            return Outcome(End.BUSY, due_at=row.check_at)
    elif row.holder is not None or row.epoch != bid.epoch:
        return Outcome(End.NOT_MINE)
    return Outcome(End.NOT_DUE, due_at=row.due_at) if row.due_at > bid.now else None


def _succeed(hold: Hold, result: object) -> Outcome:
    try:
        encoded = canonical_json(result)
    except (TypeError, ValueError) as unfit:
        return _fail(hold, f"the body's result is not JSON: {unfit}")
    point("run.body-done")
    hold.end(Status.SUCCEEDED, encoded, None)
    point("run.ended")
    log.info("run succeeded")
    return Outcome(End.DONE, result=json.loads(encoded))


def _fail(hold: Hold, error: str) -> Outcome:
    hold.end(Status.FAILED, None, error)
    log.error("run failed: %s", error)
    return Outcome(End.FAILED, error=error)


def _body_failed(hold: Hold, context: RunContext, limit: int, failure: Exception) -> Outcome:
    attempts = context.failures(BODY) + 1
    error = f"{type(failure).__name__}: {failure}"
    if attempts >= limit:
        return _fail(hold, error)
    log.warning("body failed, attempt %d of %d", attempts, limit, exc_info=failure)
    due = context.due_after(attempts, failure)
    hold.retry(BODY, attempts, error, due)
    return hold.given_back(Outcome(End.RETRY, error=error, due_at=due))

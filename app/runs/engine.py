"""perform(): one slice of a run - claim it, do its body step by step, record each, give it back."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, select
from structlog.contextvars import bound_contextvars

from app.crash import point
from app.db import canonical_json
from app.errors import LeaseLost, PayloadInvalid
from app.gateways import Gateways
from app.jobs.errors import NonRetriable, StepFailed
from app.runs import ledger
from app.runs.carrier import Carrier, End, Outcome
from app.runs.context import RunContext
from app.runs.hold import Hold
from app.runs.lease import Leases
from app.runs.models import RunRow, Status
from app.runs.pause import Pause
from app.runs.store import RunStore

log = logging.getLogger(__name__)

BODY = "(body)"
"""The step name under which failures outside any step are counted."""
UNKNOWN_JOB_WAIT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Engine:
    """What a process needs to perform runs."""

    store: RunStore
    gateways: Gateways
    leases: Leases

    def perform(self, run_id: str, epoch: int, carrier: Carrier) -> Outcome:
        """Do one slice of the run, if it still stands at `epoch` and is due.

        Never raises for what the body does: failures are recorded and come back as an Outcome. What
        the carrier itself raises through the body (the end of an Inngest step) passes through, as
        does a database that is gone: then the lease runs out and the run is taken over.
        """
        store = self.store
        with store.db.autocommit() as connection:
            claimed = ledger.claim(
                connection, run_id, epoch, carrier.holder, store.clock(), store.lease
            )
            if claimed is None:
                return self._refused(connection, run_id, epoch, carrier)
        with bound_contextvars(
            run_id=run_id, job=claimed.job, backend=claimed.backend, epoch=claimed.epoch
        ):
            self.leases.hold(claimed)
            point("run.claimed")
            try:
                return self._slice(Hold(store, claimed, carrier))
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
        except (StepFailed, NonRetriable, PayloadInvalid) as final:
            return _fail(hold, str(final))
        except LeaseLost:
            raise
        except Exception as failure:  # noqa: BLE001 - any error of a body is recorded and retried
            return _body_failed(hold, context, spec.attempts, failure)
        except (KeyboardInterrupt, SystemExit):
            hold.give_up(self.store.clock())
            raise

    def _refused(
        self, connection: Connection, run_id: str, epoch: int, carrier: Carrier
    ) -> Outcome:
        R = RunRow
        columns = (R.status, R.epoch, R.holder, R.due_at, R.check_at)
        row = connection.execute(select(*columns).where(R.id == run_id)).one_or_none()
        if row is None or row.check_at is None:
            return Outcome(End.NOT_MINE)
        if row.holder == carrier.holder and row.status == Status.RUNNING:
            return Outcome(End.BUSY, due_at=row.check_at)
        mine = row.holder == carrier.holder or (row.holder is None and row.epoch == epoch)
        if mine and row.due_at > self.store.clock():
            return Outcome(End.NOT_DUE, due_at=row.due_at)
        return Outcome(End.NOT_MINE)


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
    return Outcome(End.RETRY, error=error, due_at=due)

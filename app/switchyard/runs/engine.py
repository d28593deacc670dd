"""perform(), which does one slice of a run: claim it, do its body step by step under a heartbeat,
then give it back or end it; and current_run(), for code that a body calls without its context."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.switchyard import logs, telemetry
from app.switchyard.crash import point
from app.switchyard.db import canonical_json
from app.switchyard.errors import (
    BadInput,
    LeaseLost,
    NonRetriable,
    OutcomeUnknown,
    StepFailed,
)
from app.switchyard.runs.backend import Delivery, End, Outcome
from app.switchyard.runs.claim import claim_free, claim_run
from app.switchyard.runs.context import BODY, Pause, RunContext
from app.switchyard.runs.models import INTEGER_END, RUN_ID, Status
from app.switchyard.runs.record import Failure
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runs.store import RunStore
from app.switchyard.text import error_of, reason, said, trace_id

log = logs.logger_of(__name__)

UNKNOWN_JOB_WAIT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, eq=False)
class CurrentRun:
    """The run whose body is being performed, on either side."""

    id: str
    key: str
    job: str
    backend: str
    context: RunContext

    @property
    def attempt(self) -> int:
        """The number of the attempt at the current step, or at the body outside of any, from 1."""
        return self.context.attempt

    def progress(self, n: float, of: float | None = None, text: str | None = None) -> None:
        """Show in the console and in `runs show` that `n` of `of` are done, with a line of text.

        Each call is one write to the ledger. A write that the database refuses is logged and
        skipped. Raises ValueError for a number that is not finite.
        """
        self.context.note_progress(n, of, text)


_current: ContextVar[CurrentRun | None] = ContextVar("switchyard_run", default=None)


def current_run() -> CurrentRun | None:
    """The run whose body calls this. None outside of a run, and in threads that a body starts."""
    return _current.get()


@contextmanager
def at_work(context: RunContext) -> Iterator[None]:
    """Make `current_run()` return this slice's run inside the block."""
    run = CurrentRun(context.run_id, context.key, context.job, context.backend, context)
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


class Leases:
    """The heartbeat of the runs that this process has claimed: one thread renews each lease after a
    third of its length, and drops runs that were taken over.

    The thread starts with a process's first claim (again after a fork) and ends after a while
    without claims, so that it never keeps a process alive or an idle connection open.
    """

    def __init__(self, length: timedelta) -> None:
        self.length = length
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._kept: set[ClaimedRun] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, claimed: ClaimedRun) -> None:
        """Renew this lease until `drop`."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            self._kept.add(claimed)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._thread.start()

    def drop(self, claimed: ClaimedRun) -> None:
        """Stop renewing this lease."""
        with self._lock:
            self._kept.discard(claimed)

    def in_hand(self) -> list[str]:
        """The job and id of each run whose lease is kept."""
        with self._lock:
            return [f"{claimed.job} {claimed.run_id}" for claimed in self._kept]

    def _beat(self) -> None:
        idle = 0
        while True:
            time.sleep(self.length.total_seconds() / 3)
            with self._lock:
                kept = list(self._kept)
                idle = 0 if kept else idle + 1
                if idle > 3:
                    self._thread = None
                    return
            self.renew(kept)

    def renew(self, kept: Iterable[ClaimedRun]) -> None:
        """Renew these leases now."""
        try:
            for claimed in kept:
                try:
                    with claimed.store.db.begin() as connection:
                        claimed.renew(connection)
                except LeaseLost:
                    self.drop(claimed)
        except SQLAlchemyError as failure:
            # A lease may run out and another process take over, which the fence keeps safe.
            log.warning("leases not renewed", extra={"reason": reason(failure)})


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything a process needs to perform runs."""

    store: RunStore
    gateways: Any
    leases: Leases

    def perform(self, run_id: str, epoch: int, delivery: Delivery) -> Outcome:
        """Do one slice of the run, if it still stands at `epoch` and is due.

        The body's failures are never raised: they are recorded and returned as an Outcome. What the
        delivery itself raises through the body (at the end of an Inngest step) passes through, and
        so does the loss of the database: the lease then runs out and the run is taken over.
        """
        if not _is_sound(run_id, epoch):
            return Outcome(End.NOT_MINE)  # no run can have such an id or epoch
        claimed = claim_run(self.store, run_id, epoch, delivery)
        return claimed if isinstance(claimed, Outcome) else self.do(claimed)

    def claim(self, sent: Sequence[tuple[str, int]], delivery: Delivery) -> list[ClaimedRun]:
        """Claim those of many runs, each named with its epoch, that are due and free; `do` does
        them. The others, whose job has a cap or whose row is locked, are left to `perform`."""
        return claim_free(self.store, [one for one in sent if _is_sound(*one)], delivery)

    def do(self, claimed: ClaimedRun) -> Outcome:
        """Do one slice of a claimed run. See `perform`."""
        store = self.store
        shown: dict[str, Any] = {"run_id": claimed.run_id, "job": claimed.job}
        shown |= {"backend": claimed.backend, "epoch": claimed.epoch}
        if claimed.trace is not None:
            shown["trace_id"] = trace_id(claimed.trace)
        spec = store.catalogue.get(claimed.job)
        with logs.bound(**shown), telemetry.spans.slice(spec, claimed):
            self.leases.keep(claimed)
            if store.clock() - claimed.claimed_at > store.lease / 3:
                self.leases.renew([claimed])  # the claim waited for a lock, at the lease's expense
            point("run.claimed")
            try:
                outcome = self._slice(claimed)
                telemetry.spans.note("switchyard.end", outcome.end)
                return outcome
            except LeaseLost as lost:
                log.warning("slice void: %s", lost)
                return Outcome(End.NOT_MINE)
            finally:
                self.leases.drop(claimed)

    def _slice(self, claimed: ClaimedRun) -> Outcome:
        spec = self.store.spec_of(claimed.job)
        if spec is None:
            # Newer code wrote it, or older code reads it. Another process may know the job.
            claimed.give_up(wait=UNKNOWN_JOB_WAIT, error="unknown job")
            return Outcome(End.NOT_MINE, error="unknown job")
        context = RunContext(claimed, spec, self.gateways)
        try:
            context.boundary()
            payload = spec.parse(json.loads(claimed.payload), strict=False)
            with at_work(context), claimed.delivery.limit(spec.timeout):
                result = spec.body(context, payload)
            return _succeed(claimed, context, result)
        except Pause as pause:
            return pause.outcome
        except (StepFailed, OutcomeUnknown, NonRetriable, BadInput) as final:
            # A step's own failure was recorded when the step ended.
            new = None if final is context.step_end else Failure(final, context.attempt)
            return _fail(claimed, said(final), new)
        except BaseException as failure:
            delivery = claimed.delivery
            if isinstance(failure, LeaseLost) or delivery.is_signal(failure):
                raise
            ends = isinstance(failure, SystemExit) and delivery.stopping()
            if ends or _is_ctrl_c(failure):
                claimed.give_up()
                raise
            attempts = context.failures(BODY) + 1
            error = error_of(failure)
            if attempts >= spec.attempts:
                return _fail(claimed, error, Failure(failure, attempts))
            log.warning("body failed, attempt %d of %d", attempts, spec.attempts, exc_info=failure)
            return context.retry_later(BODY, attempts, failure, error)


def _is_ctrl_c(failure: BaseException) -> bool:
    """Whether it can be Ctrl-C: anywhere else, the body itself raised it."""
    return (
        isinstance(failure, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _is_sound(run_id: str, epoch: int) -> bool:
    return RUN_ID.fullmatch(run_id) is not None and 0 < epoch < INTEGER_END


def _succeed(claimed: ClaimedRun, context: RunContext, result: object) -> Outcome:
    try:
        encoded = canonical_json(result)
    except (TypeError, ValueError) as unfit:
        error = f"the body's result is not JSON: {unfit}"
        return _fail(claimed, error, Failure(unfit, context.attempt))
    point("run.body-done")
    claimed.end(Status.SUCCEEDED, encoded, None)
    point("run.ended")
    log.info("run succeeded")
    return Outcome(End.DONE, result=json.loads(encoded))


def _fail(claimed: ClaimedRun, error: str, failure: Failure | None) -> Outcome:
    claimed.end(Status.FAILED, None, error, failure)
    log.error("run failed: %s", error)
    return Outcome(End.FAILED, error=error)

"""The context of a job's body: steps that are done once, whichever backend delivers the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import repeat
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.switchyard import logs, telemetry
from app.switchyard.clock import as_utc, ceil_ms, iso
from app.switchyard.context import Payload
from app.switchyard.crash import point
from app.switchyard.db import canonical_json
from app.switchyard.errors import (
    BadInput,
    NonRetriable,
    NotDone,
    OutcomeUnknown,
    RetryAfter,
    StepFailed,
)
from app.switchyard.job import IfUnknown, JobSpec
from app.switchyard.runs import children
from app.switchyard.runs.backend import End, Message, Outcome
from app.switchyard.runs.models import StepStatus
from app.switchyard.runs.record import Failure
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.runs.store import new_messages, new_run, write_runs
from app.switchyard.text import error_of, plain, reason, said
from app.switchyard.words import plural
from flags import Decision, Reason, Stage

log = logs.logger_of(__name__)

BODY = "(body)"
"""The step name under which failures outside of any step are counted."""
PROGRESS_SECONDS = 1.0
"""How long a progress note waits for SQLite's lock, which the body itself may be holding."""
PROGRESS_TEXT = 500
STEP_LENGTH = 190
"""The longest name of a step, in characters. A repeated name gets a number appended."""
JOIN_POLL = timedelta(seconds=60)
"""How often a joining run looks by itself. Its last child wakes it long before that."""
_NOT_DONE = (NotDone, RetryAfter, NonRetriable, BadInput)
"""The errors with which an at-most-once step declares that it had no effect."""


class Pause(BaseException):
    """Unwinds a body whose run continues later. It is a BaseException so that a body's own `except
    Exception` does not catch it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.end)
        self.outcome = outcome


class RunContext:
    """One slice of one run: app.switchyard.context.Context and its Steps in one."""

    def __init__(self, claimed: ClaimedRun, spec: JobSpec, gateways: Any) -> None:
        self._claimed = claimed
        self._store = claimed.store
        self.spec = spec
        self.run_id = claimed.run_id
        self.job = claimed.job
        self.key = claimed.key
        self.backend = claimed.backend
        self.created_at = claimed.created_at
        self.gateways = gateways
        self._names: dict[str, int] = {}
        self._in_hand = BODY
        self._began = claimed.began_at = self.now()
        self.step_end: BaseException | None = None
        """The error raised by the last step that ended without a result."""
        self._recorded = claimed.recorded_steps()

    @property
    def step(self) -> RunContext:
        """The steps: they share the slice's state."""
        return self

    def now(self) -> datetime:
        """The current time, UTC."""
        return self._store.clock()

    def transaction(self) -> AbstractContextManager[Session]:
        """A transaction of its own, committed at the end of its block."""
        return self._store.db.session()

    def stopping(self) -> bool:
        """Whether the process is about to end."""
        return self._claimed.delivery.stopping()

    def run(self, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See app.switchyard.context.Steps.run."""
        return self._step(name, self._attempt, lambda tx: do(tx, *args, **kwargs))

    def once(self, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See app.switchyard.context.Steps.once."""
        return self._step(name, self._try_once, lambda tx: do(tx, *args, **kwargs))

    def sleep(self, name: str, duration: timedelta) -> None:
        """See app.switchyard.context.Steps.sleep."""
        step = self._unique(name)
        row = self._recorded.get(step)
        now = self._store.clock()
        until: datetime = ceil_ms(now + duration) if row is None else row.until
        if row is not None and until <= now:
            return
        self.boundary()
        raise Pause(self._claimed.wait(step, until, until))

    def dispatch(
        self, name: str, job: str, payloads: Sequence[Payload], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """See app.switchyard.context.Steps.dispatch."""
        step, known = self._look_up(name)
        if known is not None:
            return list(json.loads(known))
        if keys is not None and len(keys) != len(payloads):
            raise NonRetriable(
                f"step {step}: {plural(len(payloads), 'payload')} but {plural(len(keys), 'key')}"
            )
        spec = self._store.catalogue[job]
        now = self._store.clock()
        backend = spec.backend_for(self.backend)
        decision = Decision(backend, Reason.PARENT.value, Stage.LEGACY.value, 0)
        if keys is None and spec.key is None:
            keys = [f"{self.run_id}/{step}/{index}" for index in range(len(payloads))]
        items = [
            (new_run(spec, payload, key, now), decision)
            for payload, key in zip(payloads, keys or repeat(None), strict=False)
        ]
        messages: list[Message] = []

        def create(tx: Session) -> list[str]:
            written = write_runs(tx, self._store, spec, items, now, parent_id=self.run_id)
            messages.extend(new_messages(spec, items, written))
            return [run.id for run in written]

        send = partial(self._store.send_messages, messages)
        return list(self._perform(step, partial(self._attempt, step, create, then=send)))

    def join(self, name: str) -> dict[str, int]:
        """See app.switchyard.context.Steps.join."""
        step, known = self._look_up(name)
        if known is not None:
            return dict(json.loads(known))
        self.boundary()
        with self._store.db.autocommit() as connection:
            joins = children.any_open(connection, self.run_id)
        if joins:
            raise Pause(self._claimed.wait(step, None, self._store.clock() + JOIN_POLL))

        def count(tx: Session) -> dict[str, int]:
            return children.by_status(tx.connection(), self.run_id)

        return dict(self._perform(step, partial(self._attempt, step, count)))

    @property
    def attempt(self) -> int:
        """The number of the attempt at the current step, or at the body outside of any, from 1."""
        return self.failures(self._in_hand) + 1

    def note_progress(self, n: float, of: float | None, text: str | None) -> None:
        """See app.switchyard.runs.engine.CurrentRun.progress."""
        said = {"n": n, "of": of, "text": text and text[:PROGRESS_TEXT], "at": iso(self.now())}
        try:
            self._claimed.note("progress", canonical_json(said), PROGRESS_SECONDS)
        except SQLAlchemyError as failure:
            log.warning("progress not noted", extra={"reason": reason(failure)})

    def note_meta(self, meta: str) -> None:
        """Record rq's `job.meta`, given as JSON."""
        self._claimed.note("meta", meta)

    def boundary(self) -> None:
        """Between two steps: move to another backend if asked to, or stop if the process is."""
        if self._claimed.move_to is not None and self._claimed.move():
            log.info("run handed over at a step boundary")
            raise Pause(Outcome(End.NOT_MINE))
        if self.stopping():
            raise Pause(self._claimed.give_up())

    def failures(self, name: str) -> int:
        """How many attempts at step `name` failed in earlier slices."""
        row = self._recorded.get(name)
        return 0 if row is None or row.status == StepStatus.DONE else row.attempts

    def retry_later(self, step: str, attempts: int, failure: BaseException, error: str) -> Outcome:
        """Give the run back until the next attempt, after failed attempt number `attempts`."""
        now = self._store.clock()
        due = now + self.spec.gap(attempts)
        if isinstance(failure, RetryAfter):
            when = failure.when
            # A time that cannot be represented is replaced by the usual gap.
            with suppress(OverflowError, ValueError, AttributeError, BadInput):
                due = ceil_ms(now + when if isinstance(when, timedelta) else as_utc(when))
        failed = Failure(failure, attempts, None if step == BODY else step)
        return self._claimed.retry(step, failed, error, ceil_ms(due))

    def _unique(self, name: str) -> str:
        try:
            plain("a step's name", name, STEP_LENGTH)
        except BadInput as wrong:
            raise NonRetriable(str(wrong)) from None
        seen = self._names.get(name, 0)
        self._names[name] = seen + 1
        return name if seen == 0 else f"{name}:{seen}"

    def _look_up(self, name: str) -> tuple[str, str | None]:
        """The step's unique name, and its result as JSON if it is done. Raises the error of a step
        that failed."""
        step = self._unique(name)
        row = self._recorded.get(step)
        if row is not None and row.status in (StepStatus.FAILED, StepStatus.UNKNOWN):
            raise self._end_of(step, row.status, row.error)
        return step, None if row is None or row.status != StepStatus.DONE else str(row.result)

    def _step(
        self,
        name: str,
        attempt: Callable[[str, Callable[[Session], Any]], Any],
        do: Callable[[Session], Any],
    ) -> Any:
        step, known = self._look_up(name)
        if known is not None:
            return json.loads(known)
        return self._perform(step, partial(attempt, step, do))

    def _perform(self, step: str, attempt: Callable[[], Any]) -> Any:
        self.boundary()
        self._in_hand, self._claimed.began_at = step, self.now()
        try:
            with logs.bound(step=step), telemetry.spans.step(step, self.attempt):
                return self._claimed.delivery.run_step(step, attempt)
        finally:
            self._in_hand, self._claimed.began_at = BODY, self._began

    def _attempt(
        self, step: str, do: Callable[[Session], Any], then: Callable[[], object] | None = None
    ) -> Any:
        attempts = self.failures(step) + 1
        try:
            encoded = self._record(step, attempts, partial(_as_json, do))
        except Exception as failure:  # noqa: BLE001 - any error of a step is recorded and retried
            return self._failed(step, attempts, failure)
        result = self._recorded_now(encoded)
        if then is not None:
            then()
        return result

    def _try_once(self, step: str, do: Callable[[Session], Any]) -> Any:
        attempts = self.failures(step) + 1
        row = self._recorded.get(step)
        if row is not None and row.status == StepStatus.BEGUN:
            lost = OutcomeUnknown("the process that began it never returned")
            return self._unknown(step, row.attempts, lost)
        try:
            self._claimed.begin_step(step, attempts)
        except Exception as failure:  # noqa: BLE001 - the mark failed, and nothing was done
            return self._failed(step, attempts, failure)
        point("step.begun")
        try:
            encoded = self._record(step, attempts, partial(_effect, do))
        except _NOT_DONE as failure:
            return self._failed(step, attempts, failure)
        except OutcomeUnknown as unclear:
            return self._unknown(step, attempts, unclear)
        except SQLAlchemyError as lost:
            # The step is done. The next slice sees whether that was recorded.
            log.warning("step done, but perhaps not recorded", exc_info=lost)
            raise Pause(self._claimed.give_up()) from lost
        return self._recorded_now(encoded)

    def _record(self, step: str, attempts: int, do: Callable[[Session], str]) -> str:
        """Do the step, and record its result in the same transaction."""
        with self._store.db.session() as tx:
            encoded = do(tx)
            self._claimed.end_step(tx, step, StepStatus.DONE, attempts, result=encoded)
            point("step.uncommitted")
        return encoded

    def _recorded_now(self, encoded: str) -> Any:
        point("step.recorded")
        self._claimed.send_if_moved()
        return json.loads(encoded)

    def _failed(self, step: str, attempts: int, failure: Exception) -> Any:
        error = error_of(failure)
        refused = isinstance(failure, NonRetriable | BadInput)
        if refused or attempts >= self.spec.attempts:
            trace = None if refused else failure  # raised on purpose, it needs no trace
            log.error("step failed for good, attempt %d: %s", attempts, error, exc_info=trace)
            return self._end(step, StepStatus.FAILED, attempts, error, failure)
        log.warning("step failed, attempt %d of %d", attempts, self.spec.attempts, exc_info=failure)
        raise Pause(self.retry_later(step, attempts, failure, error))

    def _unknown(self, step: str, attempts: int, unclear: OutcomeUnknown) -> Any:
        error = f"step {step}: outcome unknown: {said(unclear)}"
        if self.spec.if_unknown is IfUnknown.REPEAT and attempts < self.spec.attempts:
            log.warning("%s; repeating it", error)
            raise Pause(self.retry_later(step, attempts, unclear, error))
        log.error("%s", error)
        return self._end(step, StepStatus.UNKNOWN, attempts, error, unclear)

    def _end(
        self, step: str, status: StepStatus, attempts: int, error: str, cause: BaseException
    ) -> Any:
        """Record that the step has no result. Raises the error that the body sees."""
        with self._store.db.session() as tx:
            self._claimed.end_step(tx, step, status, attempts, error=error)
            self._claimed.failed(tx.connection(), Failure(cause, attempts, step))
        self._claimed.send_if_moved()
        if self._claimed.given_back:
            # The backend shows this as the step's result. The body sees the error at the next call.
            return {status.value: error}
        raise self._end_of(step, status, error)

    def _end_of(self, step: str, status: str, error: str) -> StepFailed | OutcomeUnknown:
        failed = status == StepStatus.FAILED
        end = StepFailed(step, error) if failed else OutcomeUnknown(error)
        self.step_end = end
        return end


def _as_json(do: Callable[[Session], Any], tx: Session) -> str:
    value = do(tx)
    try:
        return canonical_json(value)
    except (TypeError, ValueError) as unfit:
        raise NonRetriable(f"its result is not JSON: {unfit}") from unfit


def _effect(do: Callable[[Session], Any], tx: Session) -> str:
    """What `do` returns, as JSON. Raises OutcomeUnknown for any error that does not declare that
    there was no effect."""
    try:
        encoded = canonical_json(do(tx))
    except (*_NOT_DONE, OutcomeUnknown):
        raise
    except Exception as failure:
        raise OutcomeUnknown(error_of(failure)) from failure
    point("step.unrecorded")
    return encoded

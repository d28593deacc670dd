"""What a body's context does: steps that are done once, whatever carries the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from app.switchyard.clock import ceil_ms
from app.switchyard.context import Payload
from app.switchyard.crash import point
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput, LeaseLost
from app.switchyard.job import IfUnknown, JobSpec
from app.switchyard.job_errors import NonRetriable, NotDone, OutcomeUnknown, RetryAfter, StepFailed
from app.switchyard.runs import ledger
from app.switchyard.runs.backend import End, Outcome
from app.switchyard.runs.create import as_messages, new_run, write_runs
from app.switchyard.runs.hold import Hold
from app.switchyard.runs.ledger import AnyRow
from app.switchyard.runs.models import StepStatus
from flags import Decision, Reason, Stage

log = logging.getLogger(__name__)

JOIN_POLL = timedelta(seconds=60)
"""How often a joining run looks by itself; its last child wakes it long before."""


_NOT_DONE = (NotDone, RetryAfter, NonRetriable, BadInput)
"""What says of a step that is done at most once that it had no effect."""


class Pause(BaseException):
    """Unwinds a body whose run goes on later. A BaseException, so that a body's own `except
    Exception` does not take it for a failure."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.end)
        self.outcome = outcome


class _Ended:
    """A step's end without a result, on its way out of the delivery."""

    def __init__(self, raised: StepFailed | OutcomeUnknown) -> None:
        self.raised = raised


class RunContext:
    """One slice of one run: app.switchyard.context.Context and its Steps in one."""

    def __init__(self, hold: Hold, spec: JobSpec, gateways: Any) -> None:
        self._hold = hold
        self._store = hold.store
        self._spec = spec
        self.run_id = hold.claim.run_id
        self.job = hold.claim.job
        self.key = hold.claim.key
        self.backend = hold.claim.backend
        self.created_at = hold.claim.created_at
        self.gateways = gateways
        self._names: dict[str, int] = {}
        self._move = hold.claim.move_to is not None
        self._recorded: dict[str, AnyRow] = {}
        if not hold.claim.first:
            with self._store.db.autocommit() as connection:
                self._recorded = ledger.load_steps(connection, self.run_id)

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
        return self._hold.delivery.stopping()

    def run(self, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See app.switchyard.context.Steps.run."""
        step = self._unique(name)
        if (known := self._known(step)) is not None:
            return json.loads(known)
        return self._carry(step, partial(self._attempt, step, lambda tx: do(tx, *args, **kwargs)))

    def once(self, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See app.switchyard.context.Steps.once."""
        step = self._unique(name)
        if (known := self._known(step)) is not None:
            return json.loads(known)
        return self._carry(step, partial(self._only_try, step, lambda tx: do(tx, *args, **kwargs)))

    def sleep(self, name: str, duration: timedelta) -> None:
        """See app.switchyard.context.Steps.sleep."""
        step = self._unique(name)
        row = self._recorded.get(step)
        now = self._store.clock()
        until: datetime = ceil_ms(now + duration) if row is None else row.until
        if row is not None and until <= now:
            return
        self.boundary()
        self._hold.wait(step, until, until)
        raise Pause(self._hold.given_back(Outcome(End.WAIT, due_at=until)))

    def dispatch(
        self, name: str, job: str, payloads: Sequence[Payload], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """See app.switchyard.context.Steps.dispatch."""
        step = self._unique(name)
        if (known := self._known(step)) is not None:
            return list(json.loads(known))
        if keys is not None and len(keys) != len(payloads):
            raise NonRetriable(f"step {step}: {len(payloads)} payloads but {len(keys)} keys")
        spec = self._store.catalogue[job]
        now = self._store.clock()
        backend = spec.carried_by(self.backend)
        decision = Decision(backend, Reason.PARENT.value, Stage.LEGACY.value, 0)
        items = [
            (new_run(spec, payload, self._child_key(spec, step, index, keys), now), decision)
            for index, payload in enumerate(payloads)
        ]

        def create(tx: Session) -> list[str]:
            written = write_runs(
                tx,
                spec,
                items,
                now,
                self._store.check,
                waiting_backends=self._store.waiting_backends,
                parent_id=self.run_id,
            )
            messages.extend(as_messages(spec, items, written))
            return [run.id for run in written]

        messages: list[Any] = []
        send = partial(self._store.send_messages, messages)
        return list(self._carry(step, partial(self._attempt, step, create, then=send)))

    def join(self, name: str) -> dict[str, int]:
        """See app.switchyard.context.Steps.join."""
        step = self._unique(name)
        if (known := self._known(step)) is not None:
            return dict(json.loads(known))
        self.boundary()
        if self._children_open():
            due = self._store.clock() + JOIN_POLL
            self._hold.wait(step, None, due)
            if not self._children_open():
                # The last one ended between the look and the wait, and found nobody to wake.
                self._store.wake(self.run_id)
            raise Pause(self._hold.given_back(Outcome(End.WAIT, due_at=due)))

        def count(tx: Session) -> dict[str, int]:
            return ledger.children_by_status(tx.connection(), self.run_id)

        return dict(self._carry(step, partial(self._attempt, step, count)))

    def boundary(self) -> None:
        """Between two steps: move to another backend if asked to, stop if the process is ending."""
        if self._move and self._hold.move():
            log.info("run handed over at a step boundary")
            raise Pause(Outcome(End.NOT_MINE))
        if self._hold.delivery.stopping():
            self._hold.give_up(self._store.clock())
            raise Pause(self._hold.given_back(Outcome(End.YIELDED)))

    def failures(self, name: str) -> int:
        """How many attempts at step `name` failed in earlier slices."""
        row = self._recorded.get(name)
        return 0 if row is None or row.status == StepStatus.DONE else row.attempts

    def due_after(self, attempts: int, failure: Exception) -> datetime:
        """When to try again after failed attempt number `attempts`, UTC."""
        now = self._store.clock()
        if isinstance(failure, RetryAfter):
            when = failure.when
            return ceil_ms(now + when if isinstance(when, timedelta) else when)
        return ceil_ms(now + self._spec.gap(attempts))

    def _child_key(
        self, spec: JobSpec, step: str, index: int, keys: Sequence[str] | None
    ) -> str | None:
        if keys is not None:
            return keys[index]
        return None if spec.key is not None else f"{self.run_id}/{step}/{index}"

    def _children_open(self) -> bool:
        with self._store.db.autocommit() as connection:
            return ledger.open_children(connection, self.run_id)

    def _unique(self, name: str) -> str:
        seen = self._names.get(name, 0)
        self._names[name] = seen + 1
        return name if seen == 0 else f"{name}:{seen}"

    def _known(self, step: str) -> str | None:
        row = self._recorded.get(step)
        if row is not None and row.status == StepStatus.DONE:
            return str(row.result)
        if row is not None and row.status == StepStatus.FAILED:
            raise StepFailed(step, row.error)
        if row is not None and row.status == StepStatus.UNKNOWN:
            raise OutcomeUnknown(row.error)
        return None

    def _carry(self, step: str, attempt: Callable[[], Any]) -> Any:
        self.boundary()
        with bound_contextvars(step=step):
            value = self._hold.delivery.run_step(step, attempt)
        if isinstance(value, _Ended):
            raise value.raised
        return value

    def _attempt(
        self,
        step: str,
        do: Callable[[Session], Any],
        then: Callable[[], None] | None = None,
    ) -> Any:
        attempts = self.failures(step) + 1
        try:
            with self._store.db.session() as tx:
                value = do(tx)
                try:
                    encoded = canonical_json(value)
                except (TypeError, ValueError) as unfit:
                    raise NonRetriable(f"its result is not JSON: {unfit}") from unfit
                self._move = self._hold.step_done(
                    tx, step, StepStatus.DONE, attempts, result=encoded
                )
                point("step.uncommitted")
        except LeaseLost as lost:
            raise Pause(Outcome(End.NOT_MINE, error=str(lost))) from lost
        except Exception as failure:  # noqa: BLE001 - any error of a step is recorded and retried
            return self._step_failed(step, attempts, failure)
        point("step.recorded")
        self._hold.send_if_moved()
        if then is not None:
            then()
        return json.loads(encoded)

    def _step_failed(self, step: str, attempts: int, failure: Exception) -> Any:
        error = f"{type(failure).__name__}: {failure}"
        refused = isinstance(failure, NonRetriable | BadInput)
        if refused or attempts >= self._spec.attempts:
            trace = None if refused else failure  # said on purpose, it speaks for itself
            log.error("step failed for good, attempt %d: %s", attempts, error, exc_info=trace)
            with self._store.db.session() as tx:
                self._move = self._hold.step_done(
                    tx, step, StepStatus.FAILED, attempts, error=error
                )
            self._hold.send_if_moved()
            return self._ended(StepFailed(step, error), {"failed": error})
        due = self.due_after(attempts, failure)
        log.warning(
            "step failed, attempt %d of %d", attempts, self._spec.attempts, exc_info=failure
        )
        self._hold.retry(step, attempts, error, due)
        retry = Outcome(End.RETRY, error=f"{step}: {error}", due_at=due)
        raise Pause(self._hold.given_back(retry))

    def _only_try(self, step: str, do: Callable[[Session], Any]) -> Any:
        attempts = self.failures(step) + 1
        row = self._recorded.get(step)
        if row is not None and row.status == StepStatus.BEGUN:
            return self._step_unknown(step, row.attempts, "whoever began it did not come back")
        try:
            self._hold.begin(step, attempts)
        except LeaseLost as lost:
            raise Pause(Outcome(End.NOT_MINE, error=str(lost))) from lost
        except Exception as failure:  # noqa: BLE001 - whatever came of the mark, nothing was done
            return self._step_failed(step, attempts, failure)
        point("step.begun")
        try:
            with self._store.db.session() as tx:
                encoded = _effect(do, tx)
                point("step.unrecorded")
                self._move = self._hold.step_done(
                    tx, step, StepStatus.DONE, attempts, result=encoded
                )
                point("step.uncommitted")
        except LeaseLost as lost:
            raise Pause(Outcome(End.NOT_MINE, error=str(lost))) from lost
        except _NOT_DONE as failure:
            return self._step_failed(step, attempts, failure)
        except OutcomeUnknown as unclear:
            return self._step_unknown(step, attempts, str(unclear))
        except SQLAlchemyError as lost:
            # It was done; whether that is on record, the next slice sees.
            log.warning("step done, and maybe not recorded", exc_info=lost)
            self._hold.give_up(self._store.clock())
            raise Pause(Outcome(End.YIELDED, error=str(lost))) from lost
        point("step.recorded")
        self._hold.send_if_moved()
        return json.loads(encoded)

    def _step_unknown(self, step: str, attempts: int, why: str) -> Any:
        error = f"step {step}: outcome unknown: {why}"
        if self._spec.if_unknown is IfUnknown.REPEAT and attempts < self._spec.attempts:
            due = self.due_after(attempts, OutcomeUnknown(why))
            log.warning("%s; it is repeated", error)
            self._hold.retry(step, attempts, error, due)
            raise Pause(self._hold.given_back(Outcome(End.RETRY, error=error, due_at=due)))
        log.error("%s", error)
        with self._store.db.session() as tx:
            self._move = self._hold.step_done(tx, step, StepStatus.UNKNOWN, attempts, error=error)
        self._hold.send_if_moved()
        return self._ended(OutcomeUnknown(error), {"unknown": error})

    def _ended(self, raised: StepFailed | OutcomeUnknown, shown: dict[str, str]) -> Any:
        # A backend that calls again shows this as the step's result; the body learns next call.
        return shown if self._hold.delivery.calls_again else _Ended(raised)


def _effect(do: Callable[[Session], Any], tx: Session) -> str:
    """What `do` gives, as JSON. Raises what says that it had no effect, else OutcomeUnknown."""
    try:
        return canonical_json(do(tx))
    except (*_NOT_DONE, OutcomeUnknown):
        raise
    except Exception as failure:
        raise OutcomeUnknown(f"{type(failure).__name__}: {failure}") from failure

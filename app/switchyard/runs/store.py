"""The ledger of runs as one process uses it: with its database, its clock and its backends."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TypeVar

from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.clock import Clock
from app.switchyard.db import Database
from app.switchyard.errors import BackendUnavailable, UnknownJob
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.logs import logger_of
from app.switchyard.runs.backend import Backends, Message
from app.switchyard.runs.models import AnyRow, runs
from app.switchyard.runs.models import RunRow as R
from app.switchyard.text import reason

log = logger_of(__name__)
T = TypeVar("T")

_REF = re.compile("[!-~]{1,255}")
"""A reference that can be stored. Any other is dropped, as if the backend had given none."""
CHUNK = 500
"""How many runs are read or written at a time, so that the write lock is never held for long."""
SENT = (R.id, R.job, R.backend, R.payload, R.epoch, R.sends, R.due_at, R.sent_ref, R.trace)
"""The columns from which a message is made."""

# Skips a run that has changed backend meanwhile: its new backend does not have this message.
_SAVE_REF = (
    update(runs)
    .where(R.id == bindparam("run"), R.check_at.is_not(None), R.backend == bindparam("sent_to"))
    .values(sent_ref=bindparam("ref"))
)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


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
        sent = defaultdict(list)
        for message in self.messages(rows):
            sent[message.backend].append(message)
        for backend, messages in sent.items():
            try:
                self.backends[backend].cancel(messages)
            except BackendUnavailable as failure:
                log.warning(
                    "messages not taken back; they will find a newer epoch and do nothing",
                    extra={"backend": backend, "runs": len(messages), "reason": str(failure)},
                )

    def send(self, run_ids: Sequence[str]) -> None:
        """Send these runs to their backends. What fails is left to the relay."""
        if not run_ids:
            return
        try:
            with self.db.autocommit() as connection:
                rows = [
                    row
                    for some in chunks(run_ids)
                    for row in connection.execute(
                        select(*SENT).where(R.id.in_(some)).order_by(R.id)
                    )
                ]
        except SQLAlchemyError as failure:
            log.warning("runs not sent yet; the relay will", extra={"reason": reason(failure)})
            return
        self.send_messages(self.messages(rows))

    def send_messages(self, messages: Sequence[Message]) -> None:
        """Send the messages, and record the references that the backends return."""
        refs = self.backends.send(messages, self.clock())
        rows = [
            {"run": message.run_id, "sent_to": message.backend, "ref": refs[message.run_id]}
            # Newest first: everyone who locks several runs does so in this order.
            for message in sorted(messages, key=attrgetter("run_id"), reverse=True)
            if _REF.fullmatch(refs.get(message.run_id, ""))
        ]
        try:
            for some in chunks(rows):
                with self.db.begin() as connection:
                    connection.execute(_SAVE_REF, some)
        except SQLAlchemyError as failure:
            # A run without its reference may be sent twice, which its claim makes harmless.
            log.warning("references not recorded", extra={"reason": reason(failure)})

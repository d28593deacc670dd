"""The ledger of runs as one process uses it: its database, its clock and the queues it sends to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.clock import Clock
from app.switchyard.db import Database
from app.switchyard.errors import UnknownJob
from app.switchyard.job import Catalogue, JobSpec
from app.switchyard.runs import ledger
from app.switchyard.runs.backend import Backends, Message

log = logging.getLogger(__name__)

_CHUNK = 500
"""Runs read or noted at a time: the write lock is not held for long."""


@dataclass(frozen=True, slots=True)
class RunStore:
    """Where runs are kept and where they are sent."""

    db: Database
    clock: Clock
    catalogue: Catalogue
    backends: Backends
    lease: timedelta
    """How long a claim holds without a sign of life."""
    check: timedelta
    """How long a run that was sent may stay unclaimed before the relay asks its queue about it."""

    @property
    def waiting_backends(self) -> frozenset[str]:
        """The backends that wait for a due time by themselves."""
        return frozenset(n for n in self.backends.names() if self.backends.waits_until_due(n))

    @property
    def caps(self) -> dict[str, int]:
        """How many runs at once, by job, where a job says."""
        return {
            name: spec.concurrency
            for name, spec in self.catalogue.items()
            if spec.concurrency is not None
        }

    def spec_of(self, job: str) -> JobSpec | None:
        """The job's declaration, or None (and a log line) where this code does not know it."""
        try:
            return self.catalogue[job]
        except UnknownJob:
            log.error("run of an unknown job left for code that knows it", extra={"job": job})
            return None

    def send(self, run_ids: Sequence[str]) -> None:
        """Send these runs to their backends as they stand; what fails is left to the relay."""
        try:
            with self.db.autocommit() as connection:
                rows = [
                    row
                    for start in range(0, len(run_ids), _CHUNK)
                    for row in ledger.messages(connection, run_ids[start : start + _CHUNK])
                ]
        except SQLAlchemyError as failure:
            log.warning("runs not sent yet", extra={"reason": type(failure).__name__})
            return
        messages = []
        for row in rows:
            spec = self.spec_of(row.job)
            if spec is not None:
                messages.append(ledger.as_message(row, spec))
        self.send_messages(messages)

    def send_messages(self, messages: Sequence[Message]) -> None:
        """Send the messages and note the references that come back."""
        refs = self.backends.send(messages, self.clock())
        if not refs:
            return
        backends = {m.run_id: m.backend for m in messages}
        ids = sorted(refs, reverse=True)
        try:
            for start in range(0, len(ids), _CHUNK):
                some = {run: refs[run] for run in ids[start : start + _CHUNK]}
                with self.db.begin() as connection:
                    ledger.save_refs(connection, some, backends)
        except SQLAlchemyError as failure:
            # Without its reference a run may be sent twice; its claim makes that harmless.
            log.warning("references not noted", extra={"reason": type(failure).__name__})

    def wake(self, parent_id: str) -> None:
        """A joining run whose children are all done with goes on now."""
        now = self.clock()
        with self.db.begin() as connection:
            woken = ledger.wake_parent(connection, parent_id, now, now + self.check)
        if woken:
            self.send([parent_id])

"""The sign of life of the runs this process holds: one thread renews their leases."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.clock import Clock
from app.switchyard.db import Database
from app.switchyard.runs.ledger import Claim
from app.switchyard.runs.statements import RENEW

log = logging.getLogger(__name__)


class Leases:
    """Renews every held lease at a third of its length, and drops what was taken over.

    The thread starts with the first hold of a process (again after a fork) and ends when nothing
    has been held for a while, so that it never keeps a process alive or idle connections open.
    """

    def __init__(self, db: Database, clock: Clock, lease: timedelta) -> None:
        self._db = db
        self._clock = clock
        self.length = lease
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._held: dict[tuple[str, int], Claim] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hold(self, claim: Claim) -> None:
        """Renew `claim` until `drop`."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            self._held[claim.run_id, claim.epoch] = claim
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()

    def drop(self, claim: Claim) -> None:
        """Stop renewing `claim`."""
        with self._lock:
            self._held.pop((claim.run_id, claim.epoch), None)

    def _renew(self) -> None:
        idle = 0
        while True:
            time.sleep(self.length.total_seconds() / 3)
            with self._lock:
                held = list(self._held.values())
                idle = 0 if held else idle + 1
                if idle > 3:
                    self._thread = None
                    return
            if held:
                self.renew(held)

    def renew(self, held: list[Claim]) -> None:
        """Renew these leases now."""
        try:
            for claim in held:
                # SQLite's lock is waited for before the time is read: else a long wait for it
                # would be at the lease's cost, and a live holder taken over.
                with self._db.begin() as connection:
                    fence = claim.fence(lease_until=self._clock() + self.length)
                    lost = connection.execute(RENEW, fence).rowcount == 0
                if lost:
                    self.drop(claim)
        except SQLAlchemyError as failure:
            # The lease may run out and another process take over; the fence keeps that safe.
            log.warning("leases not renewed", extra={"reason": type(failure).__name__})

"""The heartbeat of the runs that this process has claimed: one thread renews their leases."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from app.switchyard.errors import LeaseLost
from app.switchyard.logs import logger_of
from app.switchyard.runs.steps import ClaimedRun
from app.switchyard.text import reason

log = logger_of(__name__)


class Leases:
    """Renews every lease after a third of its length, and drops runs that were taken over.

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

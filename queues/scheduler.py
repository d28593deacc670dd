"""RQ's scheduler in a thread of the worker that needs it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from rq.scheduler import RQScheduler

STOP_SECONDS = 5.0


class _Thread(threading.Thread):
    pid = None
    """RQ asks it of the process that it expects here; there is nothing to kill."""


class Scheduler(RQScheduler):
    """Ends with its worker, however that ends.

    RQ's own process outlives a worker that is killed, with the worker's socket still open: Redis
    then hands the next job to the dead worker, and that job is lost.
    """

    def __init__(self, queues: Any, **options: Any) -> None:
        super().__init__(queues, logging_level=logging.WARNING, **options)

    def start(self) -> threading.Thread:
        """Look once a second for what is due."""
        self._status = self.Status.STARTED
        self._connection = None
        thread = _Thread(target=self.work, name="scheduler", daemon=True)
        self._process: Any = thread
        thread.start()
        return thread

    def _install_signal_handlers(self) -> None:
        """The worker has them."""

    def end(self) -> None:
        """Give its locks back, so that another worker's goes on at once."""
        self._stop_requested = True
        if self._process is not None:
            self._process.join(STOP_SECONDS)

"""The RQ worker class of the Procfile: `rq worker` with an allow-list and a prompt stop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from rq import SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from app.errors import SwitchyardError
from queues import task
from queues.backend import TASK

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0
"""How long a step in hand may go on after SIGTERM; then the process ends and the lease runs out."""


class NotAllowed(SwitchyardError):
    """A job in Redis names a function that was never declared; it is not executed."""


class AllowedJob(Job):
    """An RQ job that runs a declared function or nothing.

    Without it whoever can write to Redis runs any importable dotted path in the worker, JSON
    serializer or not. Callbacks are dotted paths too.
    """

    allowed: dict[str, Callable[..., Any]] = {TASK: task.perform}  # noqa: RUF012

    def _declared(self, path: str | None) -> Callable[..., Any] | None:
        if path is None:
            return None
        if path not in self.allowed:
            raise NotAllowed(f"{path!r} is not a declared job function")
        return self.allowed[path]

    @property
    def func(self) -> Any:
        """The function to run. Raises NotAllowed."""
        if self.instance is not None:
            raise NotAllowed("a job on an instance is not a declared job function")
        return self._declared(self.func_name)

    @property
    def success_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._success_callback_name)

    @property
    def failure_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._failure_callback_name)

    @property
    def stopped_callback(self) -> Any:
        """Raises NotAllowed where one is named that is not declared."""
        return self._declared(self._stopped_callback_name)


class Worker(SimpleWorker):
    """Runs jobs in its own process: the ledger makes good what dies with it, so it need not fork.

    Always JSON and always the allow-list, whatever the command line says.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(job_class=AllowedJob, serializer=JSONSerializer, log_job_description=False)
        super().__init__(*args, **kwargs)
        for queue in self.queues:
            queue.serializer = JSONSerializer
            queue.job_class = AllowedJob
        task.wired(os.getpid())

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM: end the run in hand at its next step boundary, or with the process."""
        task.stopping.set()
        deadline = threading.Timer(STOP_SECONDS, self._end)
        deadline.daemon = True
        deadline.start()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        log.warning("step still running %g s after SIGTERM; its run is left", STOP_SECONDS)
        os._exit(0)

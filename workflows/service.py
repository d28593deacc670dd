"""What both services' sides share: how a run is named, a client for each process, and a pause."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field

from app.switchyard import extras
from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable
from app.switchyard.runs.backend import Message
from app.switchyard.runs.models import INTEGER_END, RUN_ID

PAUSE_SECONDS = 2.0
"""How long nothing is sent after a failure, so that dispatch() does not wait every time."""
Client = TypeVar("Client")


class Named(BaseModel, strict=True, frozen=True):
    """What every message says: perform `run`, if it still stands at `epoch`.

    Values that no run can have would be an error in some databases, and be retried for nothing.
    """

    run: Annotated[str, Field(pattern=f"^{RUN_ID.pattern}$")]
    epoch: Annotated[int, Field(gt=0, lt=INTEGER_END)]


def require_package(service: str) -> None:
    """Raise BackendUnavailable where the service's package, which is an extra, is not installed."""
    if (lacking := extras.missing(service)) is not None:
        raise BackendUnavailable(f"{service}: {lacking}")


class Service(ABC, Generic[Client]):
    """A backend that is a service. It waits for due times itself."""

    name: str
    waits_until_due = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: tuple[int, Client] | None = None
        self._paused_until = 0.0

    @abstractmethod
    def _make(self) -> Client: ...

    def client(self) -> Client:
        """This process's client. It keeps sockets, so it is created after any fork."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), self._make()
        return self._made[1]

    @contextmanager
    def in_reach(self) -> Iterator[None]:
        """Calls of the service, which is not called for a while after one that failed.

        Raises BackendUnavailable in that while.
        """
        if time.monotonic() < self._paused_until:
            raise BackendUnavailable(f"{self.name}: could not be reached a moment ago")
        try:
            yield
        except BackendUnavailable:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            raise

    def queued(self, messages: Sequence[Message]) -> None:
        """None, since a service is not asked."""

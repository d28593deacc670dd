"""What the ledger asks of a queue: to carry the news of a run, and to say if it still does."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.switchyard import effects
from app.switchyard.errors import BackendUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What a backend is sent: do run `run_id`, if it still stands at `epoch`."""

    run_id: str
    job: str
    backend: str
    queue: str
    event: str
    payload: str
    """Canonical JSON."""
    epoch: int
    sends: int
    due_at: datetime
    timeout: float
    ref: str | None = None


class Backend(Protocol):
    """A queue. It moves runs and knows nothing of what is in them; losing one is allowed."""

    name: str
    keeps_time: bool
    """Whether it waits for a due time by itself; else the relay sends each run when it is due."""

    def send(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Queue each message; the backend's own references by run id, where it has any.

        Raises BackendUnavailable where it failed or its outcome is unknown.
        """
        ...

    def queued(self, messages: Sequence[Message]) -> set[str]:
        """The run ids among `messages` that it still has and will deliver.

        Raises BackendUnavailable where it cannot say.
        """
        ...

    def cancel(self, messages: Sequence[Message]) -> None:
        """Take back what was sent, where it can be: what it delivers all the same finds a newer
        epoch and does nothing.

        Raises BackendUnavailable where it cannot be reached; callers go on without.
        """
        ...

    def ping(self) -> None:
        """Raises BackendUnavailable where it cannot be reached."""
        ...


class Backends:
    """The backends of one process, by name."""

    def __init__(
        self, backends: Iterable[Backend], unsent: Callable[[str], None] = lambda _why: None
    ) -> None:
        self._by_name = {backend.name: backend for backend in backends}
        self._unsent = unsent

    def noting(self, unsent: Callable[[str], None]) -> Backends:
        """The same, which also say why one could not be reached."""
        return Backends(self._by_name.values(), unsent)

    def __getitem__(self, name: str) -> Backend:
        try:
            return self._by_name[name]
        except KeyError:
            raise BackendUnavailable(f"this process has no backend {name!r}") from None

    def names(self) -> list[str]:
        """The names, in the order given."""
        return list(self._by_name)

    def keeps_time(self, name: str) -> bool:
        """Whether backend `name` waits for a due time by itself; an unknown one does not."""
        backend = self._by_name.get(name)
        return backend is not None and backend.keeps_time

    def send(self, messages: Sequence[Message], now: datetime) -> dict[str, str]:
        """Send each message that its backend can take by now; references by run id.

        A backend that fails is logged and left to the relay: what is recorded stays pending.
        """
        effects.allow("sending to a queue")
        groups: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            if message.due_at <= now or self.keeps_time(message.backend):
                groups[message.backend].append(message)
        refs: dict[str, str] = {}
        for name, group in groups.items():
            try:
                refs.update(self[name].send(group))
            except BackendUnavailable as failure:
                self._unsent(str(failure))
                log.warning(
                    "not sent to the backend; its runs stay pending",
                    extra={"backend": name, "runs": len(group), "reason": str(failure)},
                )
        return refs

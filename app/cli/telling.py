"""Dispatch from a command, and know whether the backend could be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from app import runtime
from app.errors import BackendUnavailable
from app.runs.backend import Backend, Backends, Message
from app.runtime import Runtime


class Watched:
    """A backend whose failures to be told are kept, for a command to report."""

    def __init__(self, inner: Backend, failures: list[str]) -> None:
        self.name = inner.name
        self.keeps_time = inner.keeps_time
        self._inner = inner
        self._failures = failures

    def tell(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """See app.runs.backend.Backend."""
        try:
            return self._inner.tell(messages)
        except BackendUnavailable as failure:
            self._failures.append(str(failure))
            raise

    def holds(self, messages: Sequence[Message]) -> set[str]:
        """See app.runs.backend.Backend."""
        return self._inner.holds(messages)

    def cancel(self, messages: Sequence[Message]) -> None:
        """See app.runs.backend.Backend."""
        self._inner.cancel(messages)

    def ping(self) -> None:
        """See app.runs.backend.Backend."""
        self._inner.ping()


def watched(made: Runtime) -> tuple[Runtime, list[str]]:
    """The same parts, and the list that fills with what could not be told."""
    failures: list[str] = []
    old = made.store.backends
    backends = Backends(Watched(old[name], failures) for name in old.names())
    return replace(made, store=replace(made.store, backends=backends)), failures


@contextmanager
def installed(made: Runtime, then: Runtime) -> Iterator[None]:
    """`made` is what dispatch() works with inside the block, `then` after it."""
    runtime.install(made)
    try:
        yield
    finally:
        runtime.install(then)

"""What a worker may run of what lies in Redis: runs, and the old jobs that the settings name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import DefaultSerializer
from rq.utils import import_attribute

from app.switchyard.errors import SwitchyardError
from queues import task
from queues.backend import DEPENDENCY, TASK, is_pickled


@dataclass(frozen=True, slots=True)
class Allowed:
    """The functions named by LEGACY_FUNCTIONS."""

    paths: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    """Those named with `.*`: what the module itself defines, and not what it imports."""
    pickle: bool = False

    @classmethod
    def of(cls, functions: list[str], *, pickle: bool) -> Allowed:
        """The rule that these settings make."""
        modules = {path.removesuffix(".*") for path in functions if path.endswith(".*")}
        return cls(frozenset(functions) - modules, frozenset(modules), pickle)

    def names(self, path: str) -> bool:
        """Whether the path may be imported at all."""
        return path in self.paths or path.rpartition(".")[0] in self.modules

    def function(self, path: str) -> Callable[..., Any] | None:
        """The function at this path, if it is allowed.

        Raises ValueError or AttributeError, as RQ itself does, where it is not to be found.
        """
        if not self.names(path):
            return None
        found = import_attribute(path)
        module = path.rpartition(".")[0]
        if path not in self.paths and (
            isinstance(found, ModuleType) or getattr(found, "__module__", None) != module
        ):
            return None  # `from os import system` does not make it the module's own
        return found

    def method(self, instance: object, name: str) -> Callable[..., Any] | None:
        """The method of an object that came out of a pickle, if its class is allowed."""
        owner = type(instance)
        path = f"{owner.__module__}.{owner.__qualname__}"
        return getattr(instance, name) if self.pickle and self.names(path) else None


def data_of(fields: Mapping[bytes, bytes]) -> bytes:
    """A job's call as it is stored, whoever wrote it; empty where there is none."""
    stored = fields.get(b"data", b"")
    try:
        return zlib.decompress(stored)
    except zlib.error:
        return stored


class NotAllowed(SwitchyardError):
    """A job in Redis names a function that was never declared; it is not executed."""


class AllowedJob(Job):
    """An RQ job that runs a declared function or nothing.

    Without it whoever can write to Redis runs any importable dotted path in the worker, JSON
    serializer or not. Callbacks are dotted paths too.
    """

    allowed: dict[str, Callable[..., Any]] = {  # noqa: RUF012
        TASK: task.perform,
        DEPENDENCY: task.wait_for_run,
    }
    legacy = Allowed()
    """What else may run: LEGACY_FUNCTIONS."""

    @property
    def is_run(self) -> bool:
        """Whether it carries a run of the ledger."""
        try:
            return not is_pickled(self.data) and self.func_name == TASK
        except DeserializationError:
            return False

    def restore(self, raw_data: Any) -> Any:
        """Read what Redis has of it; a pickled job in its own format, if that is allowed."""
        if self.legacy.pickle and is_pickled(data_of(raw_data)):
            self.serializer = DefaultSerializer
        return super().restore(raw_data)

    def _deserialize_data(self) -> None:
        if is_pickled(self.data) and not self.legacy.pickle:
            raise DeserializationError("a pickle, which runs code when opened: see LEGACY_PICKLE")
        super()._deserialize_data()  # type: ignore[no-untyped-call]

    def _declared(self, path: str | None) -> Callable[..., Any] | None:
        if path is None:
            return None
        found = self.allowed.get(path) or self.legacy.function(path)
        if found is None:
            raise NotAllowed(f"{path!r} is not a declared job function")
        return found

    @property
    def func(self) -> Any:
        """The function to run. Raises NotAllowed."""
        if self.instance is None:
            return self._declared(self.func_name)
        method = self.legacy.method(self.instance, self.func_name or "")
        if method is None:
            raise NotAllowed("a job on an instance is not a declared job function")
        return method

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

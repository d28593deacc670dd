"""What a worker may run of the jobs that old call sites put into Redis."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rq.utils import import_attribute

_PICKLE = b"\x80"
"""How every pickle of protocol 2 or later begins, and no JSON."""


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


def is_pickled(data: bytes) -> bool:
    """Whether the call is a pickle: told from its first byte, without opening it."""
    return data.startswith(_PICKLE)

"""What statements and templates compile to, kept for all apps and engines of a test process.

Each of hundreds of tests has an app and a database of its own, and would compile the same again: a
sixth of its time. What is compiled depends on the dialect's class, not on which engine it is.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from sqlalchemy import Connection, Engine, event


class _Templates(BytecodeCache):
    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if (code := self._kept.get(bucket.key)) is not None:
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


class _Statements(dict[Any, Any]):
    """By SQLAlchemy's key, in which the dialect's class is in the place of the engine's own one."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


def keep_for_all() -> None:
    """Of every app and engine that this process has from now on."""
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": _Templates()}
    statements = _Statements()

    @event.listens_for(Engine, "engine_connect")
    def _keep(connection: Connection) -> None:
        connection.execution_options(compiled_cache=statements)

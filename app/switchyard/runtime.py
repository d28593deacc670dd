"""What one process works with: made once by create_app(), looked up by dispatch()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.switchyard.cache.cache import Cache
from app.switchyard.config import Settings
from app.switchyard.db import Database
from app.switchyard.errors import SwitchyardError
from app.switchyard.job import Catalogue
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.store import RunStore

if TYPE_CHECKING:  # who only dispatches need not load Alembic
    from app.switchyard.schema import Branch


@dataclass(frozen=True, slots=True)
class Runtime:
    """The wired parts of one process."""

    settings: Settings
    db: Database
    catalogue: Catalogue
    store: RunStore
    engine: Engine
    cache: Cache
    branches: list[Branch]
    """What `db upgrade` brings: the layer's tables first, then what the host adds."""


_current: Runtime | None = None


def install(made: Runtime) -> None:
    """Make `made` this process's runtime."""
    global _current
    _current = made


def installed() -> bool:
    """Whether this process has a runtime."""
    return _current is not None


def current() -> Runtime:
    """The process's runtime. Raises SwitchyardError where create_app() has not been called."""
    if _current is None:
        raise SwitchyardError("not wired yet: call app.create_app() first")
    return _current

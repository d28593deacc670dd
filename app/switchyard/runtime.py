"""What one Flask app works with: built by Switchyard.init_app(), looked up by dispatch()."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.switchyard.cache.cache import Cache
from app.switchyard.config import Settings
from app.switchyard.db import Database
from app.switchyard.errors import SwitchyardError
from app.switchyard.job import Catalogue
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.store import RunStore

if TYPE_CHECKING:  # who only dispatches need not load Alembic
    from app.switchyard.branch import Branch

EXTENSION = "switchyard"
"""The key of `app.extensions` under which an app's runtime is."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `cutover verify`."""

    name: str
    look: Callable[[Runtime], str]
    """Says what was seen; raises CheckFailed where it is not as it must be."""
    fix: str
    """What to do then."""
    seconds: float = 10.0
    """How long it may take."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one app."""

    settings: Settings
    db: Database
    catalogue: Catalogue
    store: RunStore
    engine: Engine
    cache: Cache
    checks: list[Check] = field(default_factory=list)
    """What `cutover verify` checks of the app beside the layer's own."""
    branches: list[Branch] = field(default_factory=list)
    """What `db upgrade` brings: the layer's tables first, then what the host adds."""


_default: Runtime | None = None
_chosen: ContextVar[Runtime | None] = ContextVar("switchyard_runtime", default=None)


def install(runtime: Runtime) -> None:
    """Make `runtime` the one that code outside of any application context works with."""
    global _default
    _default = runtime


def installed() -> bool:
    """Whether this process has a runtime."""
    return _default is not None


@contextmanager
def using(runtime: Runtime) -> Iterator[None]:
    """Have `current()` answer with `runtime` inside the block, whatever app is at work."""
    token = _chosen.set(runtime)
    try:
        yield
    finally:
        _chosen.reset(token)


def current() -> Runtime:
    """The runtime of the app at work, else the process's own.

    Raises SwitchyardError where no app has been set up.
    """
    from flask import current_app, has_app_context  # an old call site's import must not load it

    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if has_app_context() and EXTENSION in current_app.extensions:
        own: Runtime = current_app.extensions[EXTENSION]
        return own
    if _default is None:
        raise SwitchyardError("no app is set up in this process: call Switchyard.init_app() first")
    return _default

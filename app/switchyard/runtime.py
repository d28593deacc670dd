"""What one Flask app works with: built by Switchyard.init_app(), looked up by dispatch()."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

import flags
from app.switchyard.cache.cache import Cache
from app.switchyard.config import Settings
from app.switchyard.db import Database
from app.switchyard.errors import SwitchyardError
from app.switchyard.job import Catalogue
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.store import RunStore
from flags import Flags

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


@dataclass(slots=True, weakref_slot=True, eq=False)
class Runtime:
    """The parts of one app."""

    settings: Settings
    db: Database
    catalogue: Catalogue
    store: RunStore
    engine: Engine
    cache: Cache
    flags: Flags
    """Who decides for this app's new runs; a test may put its own here."""
    checks: list[Check] = field(default_factory=list)
    """What `cutover verify` checks of the app beside the layer's own."""
    web: object = None
    """What listens to the app's requests, for as long as there is the app."""
    branches: list[Branch] = field(default_factory=list)
    """What `db upgrade` brings: the layer's tables first, then what the host adds."""
    upgrade: str = "run `flask switchyard db upgrade`"
    """What a database without the tables needs, as an error says it."""


_apps: WeakSet[Runtime] = WeakSet()
_latest: Runtime | None = None
_own: Runtime | None = None
_chosen: ContextVar[Runtime | None] = ContextVar("switchyard_runtime", default=None)


def add(runtime: Runtime) -> None:
    """Have code without an application context work with `runtime` while it is the only one."""
    global _latest
    _apps.add(runtime)
    _latest = runtime  # held: a script need not keep the app that it has set up


def install(runtime: Runtime) -> None:
    """Make `runtime` the process's own: code without an application context works with it, however
    many apps there are. For the process of one app: a worker, a script, a test."""
    global _own
    _own = runtime


@contextmanager
def using(runtime: Runtime) -> Iterator[None]:
    """Have `current()` answer with `runtime` inside the block, whatever app is at work."""
    token = _chosen.set(runtime)
    try:
        yield
    finally:
        _chosen.reset(token)


def current() -> Runtime:
    """The runtime of the app at work, else the process's own, else its only one.

    Raises SwitchyardError where there is none, and where there are several.
    """
    runtime = _find()
    if runtime is None:
        raise SwitchyardError("no app is set up in this process: call Switchyard.init_app() first")
    return runtime


def installed() -> bool:
    """Whether `current()` has an answer. Raises SwitchyardError where there are several."""
    return _find() is not None


def _find() -> Runtime | None:
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    from flask import current_app, has_app_context  # an old call site's import must not load it

    if has_app_context() and EXTENSION in current_app.extensions:
        at_work: Runtime = current_app.extensions[EXTENSION]
        return at_work
    if _own is not None:
        return _own
    if len(_apps) > 1:
        gc.collect()  # an app that nobody holds any more, as of a test before, is not meant
    if len(_apps) > 1:
        raise SwitchyardError(
            f"{len(_apps)} apps of this process have Switchyard and none is at work: "
            "push an application context (with app.app_context(): ...)"
        )
    return _latest


def _flags_at_work() -> Flags | None:
    runtime = _find()
    return None if runtime is None else runtime.flags


flags.resolve(_flags_at_work)

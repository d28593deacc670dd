"""The runtime of a Flask app, which Switchyard.init_app() builds and dispatch() looks up. A process
that no web server started, such as a worker or a script, loads its app here."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakSet

import flags
from app.switchyard.cache.cache import Cache
from app.switchyard.config import Settings
from app.switchyard.db import Database
from app.switchyard.errors import SettingsError, SwitchyardError
from app.switchyard.job import Catalogue
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.store import RunStore
from flags import Flags

if TYPE_CHECKING:  # a process that only dispatches need not load Alembic, nor an import Flask
    from flask import Flask

    from app.switchyard.branch import Branch
    from app.switchyard.runs.retention import Prune

EXTENSION = "switchyard"
"""The key of an app's runtime in `app.extensions`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `cutover verify`."""

    name: str
    look: Callable[[Runtime], str]
    """Returns what it saw. Raises CheckFailed where that is wrong."""
    fix: str
    """What to do about a failure."""
    seconds: float = 10.0
    """How long the check may take."""


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
    """Decides for this app's new runs. A test may replace it."""
    checks: list[Check] = field(default_factory=list)
    """The app's own checks for `cutover verify`."""
    prunes: dict[str, Prune] = field(default_factory=dict)
    """What `prune-ledger` deletes beside the layer's own old rows."""
    web: object = None
    """Listeners to the app's requests, which live as long as the app."""
    branches: list[Branch] = field(default_factory=list)
    """What `db upgrade` migrates: the layer's tables first, then those that the host adds."""
    upgrade: str = "run `flask switchyard db upgrade`"
    """What an error about missing tables says to do."""

    def uses(self, backend: str) -> bool:
        """Whether the app uses `backend`. Many use Inngest alone, and QStash's part is there."""
        set_up = backend != "qstash" or self.settings.qstash_secret is not None
        return set_up or any(spec.serverless == backend for spec in self.catalogue.values())


_apps: WeakSet[Runtime] = WeakSet()
_latest: Runtime | None = None
_own: Runtime | None = None
_chosen: ContextVar[Runtime | None] = ContextVar("switchyard_runtime", default=None)


def add(runtime: Runtime) -> None:
    """Let code without an application context use `runtime`, while it is the only one."""
    global _latest
    _apps.add(runtime)
    _latest = runtime  # kept here, so that a script need not keep the app


def install(runtime: Runtime) -> None:
    """Make `runtime` the process's own: code without an application context uses it, however many
    apps there are. For a process with one app, such as a worker, a script or a test."""
    global _own
    _own = runtime


@contextmanager
def using(runtime: Runtime) -> Iterator[None]:
    """Make `current()` return `runtime` inside the block, whichever app is current."""
    token = _chosen.set(runtime)
    try:
        yield
    finally:
        _chosen.reset(token)


def current() -> Runtime:
    """The runtime of the current app, or else the process's own, or else its only one.

    Raises SwitchyardError where there is none, and where there are several.
    """
    runtime = _find()
    if runtime is None:
        raise SwitchyardError("no app is set up in this process: call Switchyard.init_app() first")
    return runtime


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
        gc.collect()  # drops apps that nobody uses any more, such as those of earlier tests
    if len(_apps) > 1:
        raise SwitchyardError(
            f"{len(_apps)} apps of this process have Switchyard and none is current: "
            "push an application context (with app.app_context(): ...)"
        )
    return _latest


def process_runtime() -> Runtime:
    """The current runtime. Loads the app where the process has none yet.

    Raises SettingsError where there is no app, and SwitchyardError where there are several.
    """
    runtime = _find()
    if runtime is None:
        runtime = load_app().extensions[EXTENSION]
        install(runtime)
    return runtime


def load_app() -> Flask:
    """The current app, or else the one that `flask` would use here, loaded once per process.

    Raises SettingsError where there is none, or its settings are wrong.
    """
    # Imported inside: importing the drop-in at an old call site must not load Flask.
    from flask import current_app

    if current_app:
        return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]
    return _loaded(os.getpid())


@cache
def _loaded(pid: int) -> Flask:
    from flask.cli import NoAppException, ScriptInfo, load_dotenv
    from flask.helpers import get_load_dotenv

    if get_load_dotenv():
        load_dotenv()
    # Without FLASK_APP, Flask looks for wsgi.py and app.py in the working directory. It imports
    # app.py by its name, so that it also finds a package `app`, and the create_app() in it.
    try:
        app = ScriptInfo(os.environ.get("FLASK_APP")).load_app()
    except NoAppException as failure:
        raise SettingsError(f"FLASK_APP: {failure.message}") from failure
    if EXTENSION not in app.extensions:
        raise SettingsError(f"FLASK_APP: {app.import_name!r} has no Switchyard")
    return app


def _flags_at_work() -> Flags | None:
    runtime = _find()
    return None if runtime is None else runtime.flags


flags.resolve(_flags_at_work)

"""The Flask app of a process that no web server started, such as a worker or a script."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from app.switchyard import runtime
from app.switchyard.errors import SettingsError
from app.switchyard.runtime import Runtime

if TYPE_CHECKING:
    from flask import Flask


def process_runtime() -> Runtime:
    """The current runtime. Loads the app where the process has none yet.

    Raises SettingsError where there is no app, and SwitchyardError where there are several.
    """
    if not runtime.installed():
        runtime.install(load_app().extensions[runtime.EXTENSION])
    return runtime.current()


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
    if runtime.EXTENSION not in app.extensions:
        raise SettingsError(f"FLASK_APP: {app.import_name!r} has no Switchyard")
    return app

"""The app of this repository: the platform, which adopts Switchyard as any Flask app would."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.platform.config import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """The app, set up from the environment where no settings are passed.

    Raises SettingsError with one line where a setting is missing or wrong.
    """
    # Imported inside the function: jobs are declared in this package, and importing a module of
    # them must load neither all others nor a queue.
    from flask import Flask

    from app import platform
    from app.platform import wiring
    from app.switchyard.extension import Switchyard

    app = Flask("app", static_folder=None)
    settings = wiring.settings() if settings is None else settings
    gateways = wiring.open_gateways(settings)
    Switchyard(app, jobs=platform.JOBS, settings=settings, gateways=gateways, url_prefix="")
    wiring.register(app)
    return app

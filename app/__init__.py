"""Switchyard: each background job runs on RQ or on the serverless side; a flag decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Settings
    from app.runtime import Runtime


def create_app(settings: Settings | None = None) -> Flask:
    """The wired Flask app; its parts are this process's runtime from then on.

    Raises SettingsError with one line where a setting is missing or wrong.
    """
    # Imported inside the function: a job's module lies in this package, and importing it must
    # load neither rq nor inngest, which the wiring does.
    from app.wiring import build

    return build(settings)


def wire(settings: Settings | None = None) -> Runtime:
    """This process's runtime alone, without a web app: for a script that only dispatches.

    Raises SettingsError as create_app does.
    """
    from app import config, wiring  # inside, for the same reason

    return wiring.make_runtime(config.load() if settings is None else settings)

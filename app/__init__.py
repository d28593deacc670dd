"""Switchyard: each background job runs on RQ or on the serverless side; a flag decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.switchyard.config import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """The wired Flask app; its parts are this process's runtime from then on.

    Raises SettingsError with one line where a setting is missing or wrong.
    """
    # Imported inside the function: a job's module lies in this package, and importing it must
    # load neither rq nor inngest, which the wiring does.
    from app.switchyard.extension import build

    return build(settings)

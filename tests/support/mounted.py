"""An app around a runtime that a test has built itself, on its own clock and queues."""

from __future__ import annotations

from flask import Flask

from app.platform import wiring
from app.switchyard.commands import register_commands
from app.switchyard.extension import register_pages
from app.switchyard.runtime import EXTENSION, Runtime


def mount(app: Flask, runtime: Runtime) -> None:
    """Give `app` every page and command, the layer's and the platform's, as create_app does."""
    app.extensions[EXTENSION] = runtime
    register_commands(app)
    register_pages(app, runtime)
    wiring.mount(app, runtime)

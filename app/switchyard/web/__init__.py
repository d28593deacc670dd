"""The HTTP entrances."""

from __future__ import annotations

from flask import Flask

from app.platform.mail import pages as mail
from app.platform.payouts import pages as payouts
from app.platform.statements import pages as statements
from app.platform.webhooks import pages as webhooks
from app.switchyard import console
from app.switchyard.console.door import Door
from app.switchyard.runtime import Runtime
from app.switchyard.web import health, problems
from workflows import trigger


def register(app: Flask, made: Runtime) -> None:
    """Mount every blueprint and the error answers."""
    problems.register(app)
    app.register_blueprint(health.blueprint(made))
    app.register_blueprint(trigger.blueprint(made))
    app.register_blueprint(payouts.blueprint(made))
    app.register_blueprint(statements.blueprint(made))
    app.register_blueprint(webhooks.blueprint(made))
    door = Door(made.settings, made.cache)
    app.register_blueprint(console.blueprint(made, door))
    if made.settings.local:
        app.register_blueprint(mail.blueprint(made, door))

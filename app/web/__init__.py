"""The HTTP entrances."""

from __future__ import annotations

from flask import Flask

from app.runtime import Runtime
from app.web import analytics, console, creators, health, mail, payouts, problems, trigger, webhooks
from app.web.console.door import Door


def register(app: Flask, made: Runtime) -> None:
    """Mount every blueprint and the error answers."""
    problems.register(app)
    app.register_blueprint(health.blueprint(made))
    app.register_blueprint(trigger.blueprint(made))
    app.register_blueprint(payouts.blueprint(made))
    app.register_blueprint(creators.blueprint(made))
    app.register_blueprint(webhooks.blueprint(made))
    app.register_blueprint(analytics.blueprint(made))
    door = Door(made.settings, made.cache)
    app.register_blueprint(console.blueprint(made, door))
    if made.settings.local:
        app.register_blueprint(mail.blueprint(made, door))

"""The HTTP entrances."""

from __future__ import annotations

from flask import Flask

from app.runtime import Runtime
from app.web import analytics, creators, health, mail, payouts, problems, trigger, webhooks


def register(app: Flask, made: Runtime) -> None:
    """Mount every blueprint and the error answers."""
    problems.register(app)
    app.register_blueprint(health.blueprint(made))
    app.register_blueprint(trigger.blueprint(made))
    app.register_blueprint(payouts.blueprint(made))
    app.register_blueprint(creators.blueprint(made))
    app.register_blueprint(webhooks.blueprint(made))
    app.register_blueprint(analytics.blueprint(made))
    if made.settings.local:
        app.register_blueprint(mail.blueprint(made))

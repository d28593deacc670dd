"""What the platform supplies to the layer: its gateways, pages, commands, checks and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask
from flask.cli import AppGroup

from app import platform
from app.platform import JOBS, checks, sessions, tables
from app.platform.config import Settings, load
from app.platform.gateways import Gateways
from app.platform.gateways.hooks import Hook
from app.platform.gateways.smtp import Mailer
from app.platform.gateways.storage import Storage
from app.platform.gateways.stripe import StripeGateway
from app.platform.statements import pages as statement_pages
from app.platform.webhooks import pages as webhook_pages
from app.platform.webhooks.jobs import prune_webhooks
from app.switchyard import logs
from app.switchyard.clock import Clock
from app.switchyard.commands import later, settings_checked
from app.switchyard.extension import make_runtime as layer_runtime
from app.switchyard.http import register_problems
from app.switchyard.runtime import EXTENSION, Runtime, install

if TYPE_CHECKING:
    from app.switchyard.runs.backend import Backend

_COMMANDS = {"payouts": "payouts.commands:group", "earnings": "earnings.commands:group"}
LOCAL_STRIPE_KEY = "sk_test_switchyard_local"
STRIPE_RATE = 20.0
"""Calls per second. Stripe allows 25 in test mode, and 25 to each endpoint in live mode
(https://docs.stripe.com/rate-limits)."""


def settings() -> Settings:
    """The platform's settings from the environment. Logs are configured too.

    Raises SettingsError, which ends a flask command with one line and exit code 2.
    """
    with settings_checked():
        read = load()
        logs.configure()
    return read


def open_gateways(settings: Settings) -> Gateways:
    """The outside services that the platform's jobs call."""
    secret, url = settings.stripe_api_key, settings.admin_webhook_url
    return Gateways(
        stripe=StripeGateway(
            LOCAL_STRIPE_KEY if secret is None else secret.get_secret_value(),
            settings.stripe_api_base,
            # The stand-in of local mode has no limit of its own.
            calls_per_second=1000.0 if settings.local else STRIPE_RATE,
        ),
        mailer=None if settings.smtp is None else Mailer(settings.smtp, settings.mail_from),
        admin_email=settings.admin_email,
        admin_hook=None if url is None else Hook(url=url, secret=settings.admin_webhook_secret),
        targets=settings.webhook_targets,
        storage=Storage(settings.storage_url),
        platform=settings.platform_name,
    )


def make_runtime(
    settings: Settings, *, clock: Clock | None = None, backends: list[Backend] | None = None
) -> Runtime:
    """The runtime of a process without a web app, installed for that process."""
    gateways = open_gateways(settings)
    runtime = layer_runtime(settings, jobs=JOBS, gateways=gateways, clock=clock, backends=backends)
    supply(runtime)
    install(runtime)
    return runtime


def supply(runtime: Runtime) -> None:
    """Add the platform's checks to `cutover verify`, and its tables to `db upgrade`."""
    runtime.checks.extend(checks.CHECKS)
    runtime.branches.append(tables.BRANCH)
    runtime.prunes["webhooks"] = prune_webhooks
    runtime.upgrade = "run `flask --app app db upgrade`, or start everything with `make run`"


def register(app: Flask) -> None:
    """Add the platform to an app that has the layer."""
    runtime: Runtime = app.extensions[EXTENSION]
    supply(runtime)
    mount(app, runtime)


def mount(app: Flask, runtime: Runtime) -> None:
    """Give an app the platform's pages, sessions and commands, and the layer's at the top too."""
    app.config["MAX_CONTENT_LENGTH"] = 8 * 1024 * 1024
    sessions.set_up(app)
    register_problems(app)
    for pages in (statement_pages, webhook_pages):
        app.register_blueprint(pages.blueprint(runtime))
    layer = app.cli.commands["switchyard"]
    assert isinstance(layer, AppGroup)
    for command in layer.commands.values():
        app.cli.add_command(command)
    later.add(app.cli, platform.__name__, _COMMANDS)

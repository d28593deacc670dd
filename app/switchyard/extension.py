"""The one place that wires everything."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from flask import Flask

import flags
from app.platform import tables
from app.platform.gateways import Admin, Gateways
from app.platform.gateways.hooks import Hook
from app.platform.gateways.smtp import Mailer
from app.platform.gateways.storage import open_storage
from app.platform.gateways.stripe import StripeGateway
from app.switchyard import config, logs, runtime, web
from app.switchyard import job as catalogue
from app.switchyard.cache.cache import open_cache
from app.switchyard.cache.snapshot import StageSnapshot
from app.switchyard.clock import Clock
from app.switchyard.commands import register_commands
from app.switchyard.commands.output import settings_checked
from app.switchyard.config import Settings
from app.switchyard.cutover import stages
from app.switchyard.cutover.openfeature import Provided, factory
from app.switchyard.db import Database
from app.switchyard.errors import SettingsError
from app.switchyard.job import Catalogue
from app.switchyard.runs.backend import Backend, Backends
from app.switchyard.runs.engine import Engine
from app.switchyard.runs.lease import Leases
from app.switchyard.runs.store import RunStore
from app.switchyard.schema import LAYER
from queues.backend import RQBackend
from workflows import deliver
from workflows.backend import InngestBackend
from workflows.client import make_client
from workflows.qstash import QStashBackend
from workflows.serve import serve

LOCAL_STRIPE_KEY = "sk_test_switchyard_local"


def make_runtime(
    settings: Settings, *, clock: Clock | None = None, backends: list[Backend] | None = None
) -> runtime.Runtime:
    """The parts of one process, made from its settings and installed."""
    db = Database(settings.sqlalchemy_url)
    clock = db.clock if clock is None else clock
    jobs = catalogue.load(settings.switchyard_jobs)
    if backends is None:
        _require_qstash(settings, jobs)
        backends = [
            RQBackend(settings.redis_url),
            InngestBackend(settings),
            QStashBackend(settings, jobs),
        ]
    lease = timedelta(seconds=settings.lease_seconds)
    store = RunStore(
        db=db,
        clock=clock,
        catalogue=jobs,
        backends=Backends(backends),
        lease=lease,
        check=timedelta(seconds=settings.check_seconds),
    )
    secret = settings.stripe_api_key
    stripe = StripeGateway(
        LOCAL_STRIPE_KEY if secret is None else secret.get_secret_value(),
        settings.stripe_api_base,
        calls_per_second=settings.stripe_calls_per_second,
    )
    made = runtime.Runtime(
        settings=settings,
        db=db,
        catalogue=jobs,
        store=store,
        engine=Engine(store, _gateways(settings, stripe), Leases(db, clock, lease)),
        cache=open_cache(settings),
        branches=[LAYER],
    )
    runtime.install(made)
    snapshot = StageSnapshot(made.cache, settings.sqlalchemy_url)
    provided = settings.flag_provider
    kind = flags.Flags if provided is None else partial(Provided, make=factory(provided))
    flags.configure(
        kind(
            lambda: snapshot.keep(stages.current(db)),
            lambda job: jobs[job].serverless if job in jobs else "inngest",
            snapshot=snapshot.read,
        )
    )
    return made


def _require_qstash(settings: Settings, jobs: Catalogue) -> None:
    """Raises SettingsError where a job's runs would wait for a QStash that nobody named."""
    lacking = settings.qstash_lacks
    if not settings.use_inngest or settings.local or lacking is None:
        return
    for spec in jobs.values():
        if spec.serverless == QStashBackend.name:
            raise SettingsError(
                f"USE_INNGEST is true and {spec.name} goes to QStash, but {lacking} is not set"
            )


def _gateways(settings: Settings, stripe: StripeGateway) -> Gateways:
    url, secret = settings.admin_webhook_url, settings.admin_webhook_secret
    hook = None if url is None else Hook(url.get_secret_value(), secret)
    return Gateways(
        stripe=stripe,
        mailer=None if settings.smtp is None else Mailer(settings.smtp, settings.mail_from),
        admin=Admin(email=settings.admin_email, hook=hook),
        targets={
            name: Hook(str(to.url.get_secret_value()), to.secret)
            for name, to in settings.webhook_targets.items()
        },
        storage=open_storage(settings.storage_url),
        platform=settings.platform_name,
    )


def build(settings: Settings | None = None) -> Flask:
    """See app.create_app."""
    with settings_checked():
        settings = config.load() if settings is None else settings
        logs.configure()
        made = make_runtime(settings)
    app = Flask("app", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 8 * 1024 * 1024
    app.extensions["switchyard"] = made
    web.register(app, made)
    serve(app, make_client(settings), made)
    deliver.register(app, made)
    register_commands(app)
    made.branches.append(tables.BRANCH)
    return app

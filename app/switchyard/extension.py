"""Switchyard: the Flask extension, and the one place that wires the layer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

from flask import Flask
from sqlalchemy import Engine

from app.switchyard import api, console, extras, health, hosts, maintenance, runtime, telemetry
from app.switchyard.access import AccessCheck
from app.switchyard.cache.cache import Cache, open_cache
from app.switchyard.cache.snapshot import StageSnapshot
from app.switchyard.clock import Clock
from app.switchyard.commands import register_commands, settings_checked
from app.switchyard.config import Settings
from app.switchyard.console.door import Door, HostDoor
from app.switchyard.cutover import stages
from app.switchyard.db import Database
from app.switchyard.errors import SettingsError, SwitchyardError
from app.switchyard.job import Catalogue, Jobs, load
from app.switchyard.operations.processes import beat_of_web
from app.switchyard.runs.backend import Backend, Backends
from app.switchyard.runs.engine import Engine as RunEngine
from app.switchyard.runs.engine import Leases
from app.switchyard.runs.store import RunStore
from app.switchyard.schema import LAYER
from flags import Flags
from queues.backend import RQBackend
from workflows import deliver, trigger
from workflows.backend import InngestBackend
from workflows.qstash import QStashBackend
from workflows.serve import serve


class Switchyard:
    """Adds background jobs to a Flask app, which run on RQ or on Inngest and QStash.

    `jobs` names modules that declare jobs, or lists jobs themselves. `gateways` becomes
    `ctx.gateways` in a job's body. Settings that are not passed are read from the environment and
    from the SWITCHYARD_… names of `app.config`. The database is that of the host's `engine` or of
    its Flask-SQLAlchemy `db`, or else DATABASE_URL's. The console, the API, health and metrics are
    under `url_prefix`; the endpoints for Inngest and QStash are under `/api`.

    With `access` the host's own login decides who sees the console. It is called in each request
    to the console and returns "all", "read_only" or None, optionally with the visitor's name, as in
    ("all", "ada"). See AccessCheck.
    """

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **options: Any) -> None:
        """Set `app` up. The options are those of the class, and override the ones it was given.

        Raises SettingsError with one line where a setting is missing or wrong, and SwitchyardError
        where the app has been set up already.
        """
        self._init(app, **{**self._options, **options})

    def _init(
        self,
        app: Flask,
        *,
        jobs: Iterable[Jobs] = (),
        gateways: Any = None,
        settings: Settings | None = None,
        engine: Engine | None = None,
        db: Any = None,
        url_prefix: str = "/switchyard",
        access: AccessCheck | None = None,
    ) -> None:
        if runtime.EXTENSION in app.extensions:
            raise SwitchyardError(f"app {app.import_name!r} has been set up already")
        with settings_checked():
            settings = Settings.load(config=app.config) if settings is None else settings
            own = hosts.engine_of(app, engine, db)
            app_runtime = make_runtime(
                settings, jobs=jobs, gateways=gateways, engine=own, config=app.config
            )
        telemetry.start()
        app.extensions[runtime.EXTENSION] = app_runtime
        runtime.add(app_runtime)
        register_pages(app, app_runtime, url_prefix, access)
        serve(app, app_runtime)
        deliver.register(app, app_runtime)
        register_commands(app)
        _exempt(app)
        app_runtime.web = beat_of_web(app, app_runtime)


def _exempt(app: Flask) -> None:
    """Exempt the layer's pages from the host's Flask-WTF protection, if it has any: the console has
    its own form tokens, and calls from services are signed."""
    protect = app.extensions.get("csrf")
    for name, pages in app.blueprints.items():
        if protect is not None and name.startswith("switchyard_"):
            protect.exempt(pages)


def make_runtime(
    settings: Settings,
    *,
    jobs: Iterable[Jobs] = (),
    gateways: Any = None,
    engine: Engine | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
    clock: Clock | None = None,
    backends: list[Backend] | None = None,
) -> runtime.Runtime:
    """The parts of one app, built from its settings."""
    catalogue = load(settings.switchyard_jobs or [*jobs, maintenance])
    for extra, why in extras.needed(settings, catalogue, settings.use_inngest):
        used = extra != "postgres" or engine is None
        if used and (lacking := extras.missing(extra)) is not None:
            raise SettingsError(f"{why}, but {lacking}")
    db = Database(
        settings.sqlalchemy_url if engine is None else engine,
        pool_size=settings.database_pool_size or settings.web_threads + 4,
        prepare=settings.database_prepare,
    )
    clock = db.clock if clock is None else clock
    if backends is None:
        _require_qstash(settings, catalogue)
        backends = [
            RQBackend(settings.redis_url),
            InngestBackend(settings),
            QStashBackend(settings),
        ]
    lease = timedelta(seconds=settings.lease_seconds)
    store = RunStore(
        db=db,
        clock=clock,
        catalogue=catalogue,
        backends=Backends(backends),
        lease=lease,
        check=timedelta(seconds=settings.check_seconds),
    )
    cache = open_cache(settings)
    return runtime.Runtime(
        settings=settings,
        db=db,
        catalogue=catalogue,
        store=store,
        engine=RunEngine(store, gateways, Leases(lease)),
        cache=cache,
        flags=_make_flags(settings, db, catalogue, cache, config),
        branches=[LAYER],
    )


def _make_flags(
    settings: Settings,
    db: Database,
    catalogue: Catalogue,
    cache: Cache,
    config: Mapping[str, Any],
) -> Flags:
    snapshot = StageSnapshot(cache, db.engine.url)
    kind: Callable[..., Flags] = Flags
    if settings.flag_provider is not None:
        from app.switchyard.cutover.openfeature import Provided, factory  # the SDK is an extra

        kind = partial(Provided, make=factory(settings.flag_provider))
    return kind(
        lambda: snapshot.keep(stages.current_stages(db)),
        lambda job: catalogue[job].serverless if job in catalogue else "inngest",
        snapshot=snapshot.read,
        config=config,
    )


def register_pages(
    app: Flask,
    app_runtime: runtime.Runtime,
    url_prefix: str = "",
    access: AccessCheck | None = None,
) -> None:
    """Mount the layer's own pages."""
    looks = health.looks_at(app_runtime)
    app.register_blueprint(health.blueprint(app_runtime, looks), url_prefix=url_prefix or None)
    app.register_blueprint(trigger.blueprint(app_runtime))
    if not app.secret_key and app_runtime.settings.secret_key is not None:
        app.secret_key = app_runtime.settings.secret_key.get_secret_value()
    elif not app.secret_key and app_runtime.settings.local:
        app.secret_key = secrets.token_hex()  # only for this process, so nobody else can know it
    door = Door(app_runtime) if access is None else HostDoor(app_runtime, access)
    pages = console.blueprint(app_runtime, door, looks)
    app.register_blueprint(pages, url_prefix=f"{url_prefix}/console")
    app.register_blueprint(api.blueprint(app_runtime, door), url_prefix=f"{url_prefix}/api")


def _require_qstash(settings: Settings, jobs: Catalogue) -> None:
    """Raise SettingsError where runs would wait for a QStash that is not configured."""
    lacking = settings.qstash_lacks
    if not settings.use_inngest or settings.local or lacking is None:
        return
    for spec in jobs.values():
        if spec.serverless == QStashBackend.name:
            raise SettingsError(
                f"USE_INNGEST is true and {spec.name} goes to QStash, but {lacking} is not set"
            )

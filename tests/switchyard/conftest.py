"""What several of these files begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from app.platform.config import load
from app.switchyard.db import Database
from queues.backend import connect
from tests.support.cached import kit
from tests.support.cli import build, cli, url
from tests.support.console import Site, guarded, log_in
from tests.support.sides import environment
from tests.support.tables import create_all
from tests.support.world import Time, World

__all__ = ["build", "cli", "kit", "url"]


@pytest.fixture
def at() -> Time:
    return Time(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return connect(redis_url)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """With every table."""
    db = Database(load(environment(database_url, "redis://127.0.0.1:1")).sqlalchemy_url)
    create_all(db.engine)
    yield db
    db.dispose()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.create_tables()
    yield made
    made.close()


@pytest.fixture
def sites(tmp_path: Path, opened: ExitStack) -> Callable[..., Site]:
    """Makes consoles with settings of their own, all on one database."""

    def make(kind: Callable[..., Site] = guarded, **settings: Any) -> Site:
        made = kind(f"sqlite:///{tmp_path / 'test.db'}", **settings)
        opened.callback(made.runtime.db.dispose)
        return made

    return make


@pytest.fixture
def site(sites: Callable[..., Site]) -> Site:
    """The console's app, not in local mode."""
    return sites()


@pytest.fixture
def client(site: Site) -> FlaskClient:
    """Somebody who is logged in."""
    made = site.app.test_client()
    assert log_in(made).status_code == 303
    return made

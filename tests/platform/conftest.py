"""The fixtures that several of the platform's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.platform.config import Settings
from app.switchyard.db import Database
from tests.support.mailbox import Mailbox, served
from tests.support.months import Months
from tests.support.platform import anywhere, platform
from tests.support.receiver import Receiver, receiving
from tests.support.tables import create_all

__all__ = ["anywhere", "platform"]


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """An empty database with all tables, on each kind."""
    with opened(database_url) as db:
        yield db


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    """The same on SQLite alone."""
    with opened(f"sqlite:///{tmp_path / 'lite.db'}") as db:
        yield db


@contextmanager
def opened(url: str) -> Iterator[Database]:
    db = Database(Settings(database_url=url).sqlalchemy_url)
    create_all(db.engine)
    yield db
    db.dispose()


@pytest.fixture
def months(database_url: str, tmp_path: Path) -> Iterator[Months]:
    made = Months(database_url, tmp_path / "storage")
    yield made
    made.db.dispose()


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with served() as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made

"""The console's app, and somebody who is logged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.support.console import Site, guarded, log_in


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = guarded(f"sqlite:///{tmp_path / 'test.db'}")
    yield made
    made.runtime.db.dispose()


@pytest.fixture
def client(site: Site) -> FlaskClient:
    made = site.app.test_client()
    assert log_in(made).status_code == 303
    return made

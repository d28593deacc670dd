"""One suite for every backend and database: what one promises, all promise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.support.sides import Side, side

BACKENDS = ("memory", "rq", "inngest", "qstash")
DATABASES = ("sqlite", "postgres")
ON = [(backend, database) for database in DATABASES for backend in BACKENDS]
if os.environ.get("SERVERLESS"):  # minutes of CPU: a fresh process a request, and no file written
    ON = [(f"{backend}@serverless", "postgres") for backend in ("inngest", "qstash")]


@pytest.fixture(scope="module", params=ON, ids="-".join)
def on(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[Side]:
    """A backend on a database, working."""
    backend, database = request.param
    folder: Path = tmp_path_factory.mktemp(f"{backend}-{database}")
    with ExitStack() as stack:
        url = stack.enter_context(new_database(database, folder, request))
        # Nobody dies here, and nobody is to be taken for dead on a busy machine.
        yield stack.enter_context(side(backend, url, redis_url, folder, LEASE_SECONDS="60"))

"""The layer's tables, its branch of migrations, and the lock for migrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import OperationalError

from app.switchyard import audit, nonces
from app.switchyard.branch import Branch, scripts
from app.switchyard.cutover import clock, shadow, stages
from app.switchyard.db import TABLE_PREFIX, Base, Database
from app.switchyard.errors import MigrationUnderWay
from app.switchyard.operations import processes
from app.switchyard.runs import models as runs
from app.switchyard.runs import tallies

WAIT_SECONDS = 600
"""How long a migration waits for another one."""
_LOOK_SECONDS = 0.2
# A number of our own. It locks a transaction, since behind a pooler nobody owns a session.
_LOCK = select(func.pg_try_advisory_xact_lock(0x53_57_59_44))
_FOR_LONG = text("SET LOCAL idle_in_transaction_session_timeout = 0")

metadata = Base.metadata
MODULES = (runs, stages, shadow, clock, nonces, audit, processes, tallies)
"""Where the layer's tables are."""


LAYER = Branch("switchyard", scripts() / "versions", f"{TABLE_PREFIX}alembic_version", metadata)


@contextmanager
def migrating(db: Database, say: Callable[[str], None]) -> Iterator[Connection]:
    """A connection for migrations. Anyone else who asks for one waits until this one is released.

    On SQLite everything done with it is one transaction. On Postgres none is begun, so that a
    revision can build an index concurrently. Raises MigrationUnderWay after WAIT_SECONDS.
    """
    if db.is_shared:  # in memory, on the host's only connection, so nobody else can migrate it
        with db.begin() as connection:
            yield connection
        return
    if not db.is_sqlite:
        with db.engine.connect() as lock, db.engine.connect() as connection:
            _lock(lock, say)
            yield connection
        return
    with db.engine.connect() as connection:
        connection.detach()  # closed at the end, which undoes these settings
        # Altering a table copies and drops it, which must delete no rows elsewhere.
        for pragma in ("foreign_keys = OFF", f"busy_timeout = {WAIT_SECONDS * 1000}"):
            connection.connection.cursor().execute(f"PRAGMA {pragma}")
        try:
            transaction = connection.begin()
        except OperationalError as failure:
            if getattr(failure.orig, "sqlite_errorname", None) == "SQLITE_BUSY":
                raise MigrationUnderWay(WAIT_SECONDS) from failure
            raise
        with transaction:
            yield connection


def _lock(connection: Connection, say: Callable[[str], None]) -> None:
    # Polled: waiting inside the database would keep a snapshot open, for which the other one's
    # CREATE INDEX CONCURRENTLY would wait in turn.
    until = time.monotonic() + WAIT_SECONDS
    waits = False
    while True:
        if connection.scalar(_LOCK):
            # Another statement releases the snapshot of the one that took the lock.
            connection.execute(_FOR_LONG)
            return
        connection.rollback()
        if time.monotonic() > until:
            raise MigrationUnderWay(WAIT_SECONDS)
        if not waits:
            say(f"another migration is under way: waiting for it for up to {WAIT_SECONDS} s")
        waits = True
        time.sleep(_LOOK_SECONDS)

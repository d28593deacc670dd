"""The migrations make exactly the models' tables, and take them back, on both databases."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect, text

from app.platform import tables
from app.platform.config import ROOT, Settings
from app.switchyard import audit, schema
from app.switchyard.db import TABLE_PREFIX, Database, include_object
from app.switchyard.errors import MigrationUnderWay
from app.switchyard.schema import LAYER, migrating
from tests.conftest import new_database
from tests.support.forks import Forked
from tests.support.sides import environment
from tests.support.tables import guard
from tests.support.waiting import PATIENCE_SECONDS, until

BRANCHES = (LAYER, tables.BRANCH)
VERSIONS = {branch.version_table for branch in BRANCHES}
POSTGRES = {
    "columns": "SELECT table_name, ordinal_position, column_name, data_type, column_default,"
    " character_maximum_length, collation_name, is_nullable FROM information_schema.columns"
    " WHERE table_schema = 'public'",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE NOT tgisinternal",
    "functions": "SELECT '', proname, prosrc FROM pg_proc"
    " WHERE pronamespace = 'public'::regnamespace",
    "options": "SELECT relname, relkind::text, reloptions::text FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')",
}
"""Everything that a database can have of its tables."""


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_database(request.param, tmp_path, request, empty=True) as url:
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """Without a table."""
    made = Database(Settings(database_url=database_url).sqlalchemy_url)
    yield made
    made.dispose()


def upgrade(db: Database) -> None:
    with migrating(db, print) as connection:
        for branch in BRANCHES:
            command.upgrade(branch.config(connection), "head")


def downgrade(db: Database) -> None:
    with migrating(db, print) as connection:
        for branch in BRANCHES:
            command.downgrade(branch.config(connection), "base")


def names(db: Database) -> set[str]:
    return set(inspect(db.engine).get_table_names())


def described(db: Database) -> dict[str, Any]:
    """The database's own account of its tables, but for the version tables."""
    with db.autocommit() as connection:
        if db.is_sqlite:
            rows = connection.execute(text("SELECT name, tbl_name, sql FROM sqlite_master"))
            return {name: _lines(sql) for name, of, sql in rows if of not in VERSIONS and sql}
        return {
            what: sorted(
                tuple(" ".join(str(value).split()) for value in row)
                for row in connection.execute(text(query))
                if row[0] not in VERSIONS
            )
            for what, query in POSTGRES.items()
        }


def _lines(sql: str) -> list[str]:
    """A table's columns in their order, then its constraints; of all else its words."""
    if not sql.startswith("CREATE TABLE"):
        return sql.replace(";", " ; ").split()
    lines = [line.strip(" ,\t") for line in sql.splitlines()]
    constraints = sorted(line for line in lines if line.startswith("CONSTRAINT"))
    columns = [line for line in lines if line not in constraints]
    # One that was added later is on the line of the one before it.
    return [column for line in columns for column in line.split(", ")] + constraints


def test_up_is_the_models_and_down_is_nothing(db: Database) -> None:
    upgrade(db)
    migrated = described(db)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        both: Any = [branch.metadata for branch in BRANCHES]
        changes = compare_metadata(context, both)
    # Each version table is one that the other branch does not know.
    assert {(change[0], change[1].name) for change in changes} <= {
        ("remove_table", name) for name in VERSIONS
    }
    downgrade(db)
    assert names(db) == VERSIONS
    if not db.is_sqlite:
        assert described(db)["functions"] == []
    for branch in BRANCHES:
        branch.metadata.create_all(db.engine)
    guard(db.engine)
    assert migrated == described(db)
    assert len(migrated) > 5


def test_the_layer_s_tables_are_its_own() -> None:
    layer, platform = (set(branch.metadata.tables) for branch in BRANCHES)
    assert {name for name in layer | platform if name.startswith(TABLE_PREFIX)} == layer
    for table in tables.metadata.tables.values():
        for key in table.foreign_keys:
            assert not key.target_fullname.startswith(TABLE_PREFIX)


def test_a_migration_imports_nothing_of_the_app() -> None:
    files = list((ROOT / "migrations").rglob("*.py"))
    assert len(files) == 9
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                whose = getattr(node, "module", None) or ""
                imported = {whose, *(name.name for name in node.names)}
                roots = {name.split(".")[0] for name in imported}
                assert not roots & {"app", "queues", "workflows", "flags"}, file


# --- beside a host's own ------------------------------------------------------------------------


def test_a_host_s_tables_and_versions_are_left_alone(db: Database) -> None:
    host = MetaData()
    Table("runs", host, Column("id", Integer, primary_key=True))
    host.create_all(db.engine)
    with db.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('host')"))
    with migrating(db, print) as connection:
        command.upgrade(LAYER.config(connection), "head")
    assert host_changes(db, host, None) != []
    assert host_changes(db, host, include_object) == []
    with migrating(db, print) as connection:
        command.downgrade(LAYER.config(connection), "base")
    assert names(db) == {"runs", "alembic_version", LAYER.version_table}
    assert db.value(text("SELECT version_num FROM alembic_version")) == "host"


def host_changes(db: Database, host: MetaData, include: Any) -> list[Any]:
    """What a host's autogenerate would write into its next revision."""
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include})
        changes: list[Any] = compare_metadata(context, host)
    return changes


# --- two at once --------------------------------------------------------------------------------


def release(url: str) -> subprocess.Popen[str]:
    command = ["-m", "flask", "--app", "app", "db", "upgrade"]
    return Forked(
        command, env=environment(url, "redis://127.0.0.1:1/0"), stdout=-1, stderr=-1, text=True
    )


def versions(connection: Connection) -> list[str | None]:
    return [branch.revision(connection) for branch in BRANCHES]


def test_a_release_waits_for_the_one_before_it(db: Database, database_url: str) -> None:
    with migrating(db, print) as connection:
        second = release(database_url)
        if db.is_sqlite:
            there = psutil.Process(second.pid)
            until(lambda: db.engine.url.database in {file.path for file in there.open_files()})
        else:
            assert second.stderr is not None
            assert "waiting for it" in second.stderr.readline()
        assert second.poll() is None
        for branch in BRANCHES:
            command.upgrade(branch.config(connection), "head")
    _, said = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, said
    with db.autocommit() as connection:
        assert versions(connection) == [branch.head() for branch in BRANCHES]


def test_a_migration_does_not_wait_for_ever(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "WAIT_SECONDS", 1)
    with migrating(db, print), pytest.raises(MigrationUnderWay), migrating(db, print):
        pass
    with migrating(db, print) as connection:
        assert versions(connection) == [None, None]


def test_what_was_done_so_far_begins_the_audit(db: Database) -> None:
    with migrating(db, print) as connection:
        command.upgrade(LAYER.config(connection), "0004")
    at = "'2026-05-01 02:00:00', 'send-email'"
    with db.begin() as connection:
        for insert in (
            'INTO switchyard_stage_changes (at, job, from_stage, to_stage, percent, "by", why,'
            f" forced) VALUES ({at}, 'legacy', 'ramp', 12.5, 'ada', 'calm', NULL)",
            'INTO switchyard_pins (at, job, key, side, "by", why)'
            f" VALUES ({at}, 'a', 'rq', 'bo', 'loud'), ({at}, 'b', 'rq', 'bo', 'loud')",
        ):
            connection.execute(text(f"INSERT {insert}"))
    with migrating(db, print) as connection:
        command.upgrade(LAYER.config(connection), "head")
    pin, stage = sorted(audit.history(db), key=lambda act: str(act["act"]))
    assert (stage["who"], stage["why"], stage["job"]) == ("ada", "calm", "send-email")
    assert stage["detail"] == {"forced": False, "from": "legacy", "percent": 12.5, "to": "ramp"}
    assert (pin["who"], pin["count"], pin["detail"]) == ("bo", 2, {"side": "rq"})
    assert pin["at"] == stage["at"] == datetime(2026, 5, 1, 2, tzinfo=UTC)

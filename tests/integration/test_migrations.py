"""The migrations make exactly the models' tables, and take them away again, on both databases."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from app.platform import tables
from app.switchyard.config import ROOT
from app.switchyard.db import Database

PRODUCT = {
    mapper.local_table
    for mapper in tables.Base.registry.mappers
    if mapper.class_.__module__.startswith("app.")
}


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(ROOT / "migrations"))
    made.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return made


def sqlalchemy_url(database_url: str) -> str:
    return database_url.replace("postgresql://", "postgresql+psycopg://")


def test_up_is_the_models_and_down_is_nothing(database_url: str) -> None:
    url = sqlalchemy_url(database_url)
    command.upgrade(config(url), "head")
    engine = create_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    # Other test modules of this process may have added tables of their own.
    assert [d for d in found if not (d[0] == "add_table" and d[1] not in PRODUCT)] == []
    made = set(inspect(engine).get_table_names()) - {"alembic_version"}
    assert made == {table.name for table in PRODUCT}  # type: ignore[attr-defined]
    command.downgrade(config(url), "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    command.upgrade(config(url), "head")
    assert "runs" in inspect(engine).get_table_names()
    engine.dispose()


def test_the_migrated_ledger_is_guarded(database_url: str) -> None:
    command.upgrade(config(sqlalchemy_url(database_url)), "head")
    db = Database(sqlalchemy_url(database_url))
    with db.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO entries (id, kind, ref, debit, credit, currency, amount, created_at)"
                " VALUES (1, 'earning', 'e1', 'platform:cash', 'creator:a', 'usd', 5,"
                " '2026-01-01 00:00:00')"
            )
        )
    for change in ("UPDATE entries SET amount = 6", "DELETE FROM entries"):
        with pytest.raises(DBAPIError, match="never changed"), db.begin() as connection:
            connection.execute(text(change))
    db.dispose()

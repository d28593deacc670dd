"""Alembic's environment: the URL comes from its config, the tables from the models."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool

from app.platform import tables

config = context.config


def run() -> None:
    """Run the migrations in one transaction each, on SQLite with tables copied where needed."""
    engine = create_engine(config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=tables.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()

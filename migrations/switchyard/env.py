"""Alembic's environment for every branch: the caller gives the connection and what to migrate.

It imports nothing of the app, so that it lies in the wheel as it is.
"""

from __future__ import annotations

from alembic import context

branch = context.config.attributes["branch"]
connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=branch.metadata,
    version_table=branch.version_table,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()

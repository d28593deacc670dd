"""`db upgrade|downgrade|current`: the tables, by Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from app.switchyard.commands.output import Commands, json_option, parts, record, say
from app.switchyard.config import ROOT
from app.switchyard.errors import BadInput
from app.switchyard.runtime import Runtime

group = Commands("db", help="The tables of this version, by Alembic.")


@group.command("upgrade")
@click.argument("revision", default="head")
@json_option
def upgrade(revision: str, as_json: bool) -> None:
    """Bring the tables to REVISION, by default the newest; nothing is done where they are."""
    made = parts()
    with _refused():
        command.upgrade(_config(made), revision)
    _print(made, as_json)


@group.command("downgrade", context_settings={"ignore_unknown_options": True})
@click.argument("revision")
@json_option
def downgrade(revision: str, as_json: bool) -> None:
    """Take the tables back to REVISION (-1: by one, base: to none), with what they hold."""
    made = parts()
    with _refused():
        command.downgrade(_config(made), revision)
    _print(made, as_json)


@group.command("current")
@json_option
def current(as_json: bool) -> None:
    """Where the tables stand, and the newest revision there is."""
    _print(parts(), as_json)


def _config(made: Runtime) -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", made.settings.sqlalchemy_url.replace("%", "%%"))
    return config


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except CommandError as failure:
        raise BadInput(str(failure)) from failure


def standing(made: Runtime) -> tuple[str | None, str | None]:
    """The tables' revision, and the newest there is."""
    with _refused():
        head = ScriptDirectory.from_config(_config(made)).get_current_head()
        with made.db.autocommit() as connection:
            return MigrationContext.configure(connection).get_current_revision(), head


def _print(made: Runtime, as_json: bool) -> None:
    revision, head = standing(made)
    record({"revision": revision, "head": head}, as_json)
    if revision != head:
        say("the tables are not those of this version")

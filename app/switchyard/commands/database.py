"""`db upgrade|downgrade|current`: the tables, by Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import click
from sqlalchemy import MetaData, Table
from sqlalchemy.schema import DropTable

from app.switchyard.commands.output import Commands, answered, listing, parts, say
from app.switchyard.errors import BadInput
from app.switchyard.runtime import Runtime
from app.switchyard.schema import migrating


@contextmanager
def _alembic() -> Iterator[ModuleType]:
    from alembic import command  # slow to load, and no other command needs it
    from alembic.util import CommandError

    try:
        yield command
    except CommandError as failure:
        raise BadInput(str(failure)) from failure


group = Commands("db", help="Migrate the tables, with Alembic.")


@group.command("upgrade")
def upgrade() -> None:
    """Upgrade all tables to their newest revisions.

    Of two upgrades at the same time, one waits for the other.
    """
    with _alembic() as alembic, migrating(parts().db, say) as connection:
        for branch in parts().branches:
            alembic.upgrade(branch.config(connection), "head")
    current()


@group.command("downgrade", context_settings={"ignore_unknown_options": True})
@click.argument("branch")
@click.argument("revision")
def downgrade(branch: str, revision: str) -> None:
    """Downgrade BRANCH's tables to REVISION, and lose their data.

    -1 goes back by one revision, and base removes the tables.
    """
    branches = {each.name: each for each in parts().branches}
    if branch not in branches:
        raise BadInput(f"no branch {branch!r}; there are: {', '.join(branches)}")
    with _alembic() as alembic, migrating(parts().db, say) as connection:
        alembic.downgrade(branches[branch].config(connection), revision)
        is_one = connection.in_transaction()
        if branches[branch].revision(connection) is None:
            # Leaves nothing for a host's autogenerate to find.
            table = Table(branches[branch].version_table, MetaData())
            connection.execute(DropTable(table, if_exists=True))
        if not is_one:
            connection.commit()
    current()


@group.command("current")
def show_current() -> None:
    """Show the tables' revisions, and the newest ones."""
    current()


def current() -> None:
    """Answer with it."""
    rows = standing(parts())
    layer = {key: rows[0][key] for key in ("revision", "head")}
    if not answered(layer | {"branches": rows}):
        listing(rows, ("name", "revision", "head"))
    if behind := [row["name"] for row in rows if row["revision"] != row["head"]]:
        say(f"the tables of {' and '.join(behind)} are not those of this version")


def standing(runtime: Runtime) -> list[dict[str, Any]]:
    """Each branch's revision, and the newest one."""
    with _alembic(), runtime.db.autocommit() as connection:
        return [
            {"name": b.name, "revision": b.revision(connection), "head": b.head()}
            for b in runtime.branches
        ]

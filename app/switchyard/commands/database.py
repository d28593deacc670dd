"""`db upgrade|downgrade|current`: the tables, by Alembic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from app.switchyard.branch import Branch
from app.switchyard.commands.output import Commands, answered, listing, parts, say
from app.switchyard.errors import BadInput
from app.switchyard.runtime import Runtime
from app.switchyard.schema import migrating

group = Commands("db", help="The tables of this version, by Alembic.")

branch_option = click.option("--branch", metavar="NAME", help="Of these tables only.")


@group.command("upgrade")
@click.argument("revision", default="head")
@branch_option
def upgrade(revision: str, branch: str | None) -> None:
    """Bring the tables to REVISION, by default the newest; nothing is done where they are.

    Two at once wait for each other.
    """
    _migrate(command.upgrade, revision, _chosen(branch, revision, "head"))
    _print()


@group.command("downgrade", context_settings={"ignore_unknown_options": True})
@click.argument("revision")
@branch_option
def downgrade(revision: str, branch: str | None) -> None:
    """Take the tables back to REVISION (-1: by one, base: to none), with what they hold."""
    _migrate(command.downgrade, revision, _chosen(branch, revision, "base")[::-1])
    _print()


@group.command("current")
def current() -> None:
    """Where the tables stand, and the newest revision there is."""
    _print()


def _chosen(name: str | None, revision: str, common: str) -> list[Branch]:
    every = parts().branches
    names = [branch.name for branch in every]
    if name is None:
        if revision != common and len(every) > 1:
            raise BadInput(f"of which tables is {revision!r}? say --branch {' or '.join(names)}")
        return every
    if name not in names:
        raise BadInput(f"no branch {name!r}: there is {', '.join(names)}")
    return [every[names.index(name)]]


def _migrate(move: Callable[[Config, str], None], revision: str, chosen: Sequence[Branch]) -> None:
    with _refused(), migrating(parts().db, say) as connection:
        for branch in chosen:
            move(branch.config(connection), revision)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except CommandError as failure:
        raise BadInput(str(failure)) from failure


def standing(runtime: Runtime) -> list[dict[str, Any]]:
    """Where each branch's tables are, and the newest revision there is."""
    with _refused(), runtime.db.autocommit() as connection:
        return [
            {"name": b.name, "revision": b.revision(connection), "head": b.head()}
            for b in runtime.branches
        ]


def _print() -> None:
    rows = standing(parts())
    layer = {key: rows[0][key] for key in ("revision", "head")}
    if not answered(layer | {"branches": rows}):
        listing(rows, ("name", "revision", "head"))
    if behind := [row["name"] for row in rows if row["revision"] != row["head"]]:
        say(f"the tables of {' and '.join(behind)} are not those of this version")

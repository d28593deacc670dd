"""How every command speaks: one JSON document or a table on stdout, all else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from app.switchyard.errors import BackendUnavailable, BadInput, SettingsError, SwitchyardError
from app.switchyard.runtime import Runtime

DID_NOT_HOLD = 1
WRONG_USE = 2
UPGRADE = "flask --app app db upgrade"
_PIPE_WIDTH = 1000
"""Columns where there is no terminal: nothing is cut for whoever reads it there."""
_OLD_TABLES = ("42P01", "42703", "3F000")
"""SQLSTATE of an unknown table, column and schema."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class DidNotHold(click.ClickException):
    """What was asked for did not hold: one line on stderr."""

    exit_code = DID_NOT_HOLD

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(printable(message).split()))


class WrongUse(DidNotHold):
    """What was asked for makes no sense: one line on stderr, and nothing was changed."""

    exit_code = WRONG_USE


class Commands(AppGroup):
    """A group of commands that end with an exit code and one line, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with reported(), _hushed():
            return super().invoke(ctx)


class Process(click.Command):
    """A command that runs until it is asked to stop, and logs as any process does."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with reported():
            return super().invoke(ctx)


def parts() -> Runtime:
    """The parts of the app this command belongs to."""
    made: Runtime = current_app.extensions["switchyard"]
    return made


def document(value: Any) -> None:
    """Print the one JSON document."""
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    """A line for the human, out of the way of what is piped on."""
    click.echo(printable(text), err=True)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, one_line: bool = False
) -> None:
    """Print rows as wide as the terminal; what is too long for its column goes on below, or is cut
    where each row is to be `one_line`."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        # What identifies a row stays in one piece, to be copied.
        grid.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows:
        cells = [_cell(value) for value in row]
        for cell in cells if one_line else ():
            cell.no_wrap, cell.overflow = True, "ellipsis"
        grid.add_row(*cells)
    console().print(grid)


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name), _cell(value))
    console().print(grid)


def listing(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    as_json: bool,
    *,
    one_line: bool = False,
) -> None:
    """Print rows: all of them, or these columns as a table."""
    if as_json:
        document(rows)
    else:
        table(columns, ([row[name] for name in columns] for row in rows), one_line=one_line)


def record(value: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing: as it is, or a name and a value a line."""
    if as_json:
        document(value)
    else:
        details(value.items())


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr, as wide as its terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def printable(text: str) -> str:
    """`text` without what would steer a terminal: errors and keys come from anywhere."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, dict | list):
        return Text(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return Text(f"{value:g}")
    return Text(printable(str(value)))


@contextmanager
def reported() -> Iterator[None]:
    """Turn what the product raises on purpose, and a database that is not there, into one line."""
    try:
        yield
    except BackendUnavailable as failure:
        line = f"{failure}: see that it is up, and what `flask --app app cutover verify` says"
        raise DidNotHold(line) from failure
    except SwitchyardError as failure:
        wrong_use = isinstance(failure, BadInput | SettingsError)
        raise (WrongUse if wrong_use else DidNotHold)(str(failure)) from failure
    except UnicodeEncodeError as failure:
        line = f"not to be written as {failure.encoding}: see that arguments are UTF-8, and LANG"
        raise WrongUse(line) from failure
    except DBAPIError as failure:
        raise DidNotHold(_database_line(failure)) from failure


def _database_line(failure: DBAPIError) -> str:
    lines = str(failure.orig).splitlines()
    reason = lines[0] if lines else type(failure).__name__
    # psycopg's name for it, and psycopg2's.
    state = getattr(failure.orig, "sqlstate", None) or getattr(failure.orig, "pgcode", None)
    if state in _OLD_TABLES or "no such table" in reason or "no such column" in reason:
        return f"the database has not the tables of this version ({reason}): run `{UPGRADE}`"
    return (
        f"the database cannot be used ({reason}): see that DATABASE_URL is right and the database"
        f" up; a new one needs `{UPGRADE}`"
    )


@contextmanager
def _hushed() -> Iterator[None]:
    """Only errors are logged, unless LOG_LEVEL asks for more: a command says itself what it did."""
    root = logging.getLogger()
    level = root.level
    if not os.environ.get("LOG_LEVEL"):
        root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def settings_checked() -> Iterator[None]:
    """Around the making of the app: a bad setting ends a flask command with one line and 2.

    Anywhere else it stays the SettingsError it is. SystemExit, since flask itself shows a traceback
    for any other error of a factory, or goes on without the app.
    """
    try:
        yield
    except SettingsError as failure:
        context = click.get_current_context(silent=True)
        if context is None or context.find_object(ScriptInfo) is None:
            raise
        refusal = WrongUse(str(failure))
        refusal.show()
        raise SystemExit(refusal.exit_code) from failure

"""How every command speaks: one JSON document or a table on stdout, all else on stderr."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from app.switchyard.clock import in_json, iso
from app.switchyard.errors import BackendUnavailable, BadInput, SettingsError, SwitchyardError
from app.switchyard.runtime import EXTENSION, Runtime
from app.switchyard.text import reason

DID_NOT_HOLD = 1
WRONG_USE = 2
_AS_JSON = "switchyard.json"
_PIPE_WIDTH = 1000
"""Columns where there is no terminal: nothing is cut for whoever reads it there."""
_OLD_TABLES = ("42P01", "42703", "3F000")
"""SQLSTATE of an unknown table, column and schema."""

# A process that ends need not look for cycles in all that it has loaded: that took a command a
# quarter of its time.
atexit.register(gc.freeze)

json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, _option, value: ctx.meta.update({_AS_JSON: value}),
    help="Print one JSON document.",
)


def options(*given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options of a command as one decorator, in this order."""
    return lambda command: reduce(lambda done, option: option(done), reversed(given), command)


class Commands(AppGroup):
    """A group of commands, each with --json, in the app's context. They end with an exit code and
    one line, never with a traceback."""

    def command(  # type: ignore[override]
        self, *args: Any, **options: Any
    ) -> Callable[[Callable[..., Any]], click.Command]:
        """Declare one of them."""
        declare = super().command(*args, **options)
        return lambda function: declare(json_option(function))

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


class DidNotHold(click.ClickException):
    """What was asked for did not hold: one line on stderr."""

    exit_code = DID_NOT_HOLD

    def __init__(self, line: str) -> None:
        super().__init__(" ".join(printable(line).split()))


class WrongUse(DidNotHold):
    """What was asked for makes no sense: one line on stderr, and nothing was changed."""

    exit_code = WRONG_USE


def parts() -> Runtime:
    """The parts of the app this command belongs to."""
    runtime: Runtime = current_app.extensions[EXTENSION]
    return runtime


def answered(value: Any) -> bool:
    """Print `value` as the one JSON document where --json asks for it; else it is for the caller to
    show."""
    asked = bool(click.get_current_context().meta.get(_AS_JSON))
    if asked:
        click.echo(json.dumps(value, indent=2, default=in_json))
    return asked


def say(text: str) -> None:
    """A line for the human, out of the way of what is piped on."""
    click.echo(printable(text), err=True)


def listing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], **how: bool) -> None:
    """Answer with rows: all of them, or these columns as a table."""
    if not answered(rows):
        table(columns, ([row.get(name) for name in columns] for row in rows), **how)


def record(value: Mapping[str, Any]) -> None:
    """Answer with one thing: as it is, or a name and a value a line."""
    if not answered(value):
        details(value)


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


def details(values: Mapping[str, object]) -> None:
    """Print a name and a value a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(Text(name), _cell(value))
    console().print(grid)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr, as wide as its terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def progress(what: str, *more: ProgressColumn, transient: bool = False) -> Progress:
    """A bar for long work on a terminal; none in a pipe."""
    stderr = console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *more)
    hidden = not stderr.is_terminal
    return Progress(*columns, console=stderr, transient=transient, disable=hidden)


def printable(text: str) -> str:
    """`text` without what would steer a terminal: errors and keys come from anywhere."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _cell(value: object) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, dict | list):
        return Text(json.dumps(value, ensure_ascii=False, default=in_json))
    if isinstance(value, datetime):
        return Text(iso(value) or "")
    return Text(f"{value:g}" if isinstance(value, float) else printable(str(value)))


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
        raise DidNotHold(database_line(failure)) from failure
    except NoConnection as failure:
        line = "no connection to the database is left: see DATABASE_POOL_SIZE"
        raise DidNotHold(line) from failure


def database_line(failure: DBAPIError) -> str:
    """What is wrong with the database, and what to do; no password is in it."""
    why = reason(failure)
    # The app's context is gone where a command has failed.
    info = click.get_current_context().ensure_object(ScriptInfo)
    runtime: Runtime = info.load_app().extensions[EXTENSION]
    # psycopg's name for it, and psycopg2's.
    state = getattr(failure.orig, "sqlstate", None) or getattr(failure.orig, "pgcode", None)
    if state in _OLD_TABLES or "no such table" in why or "no such column" in why:
        return f"the database lacks this version's tables ({why}): {runtime.upgrade}"
    return (
        f"the database cannot be used ({why}): see that DATABASE_URL is right and the database up;"
        f" if it is new, {runtime.upgrade}"
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

"""The output of every command: one JSON document or a table on stdout, all else on stderr."""

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
"""The width where there is no terminal, so that nothing is cut."""
_OLD_TABLES = ("42P01", "42703", "3F000")
"""The SQLSTATEs of an unknown table, column and schema."""

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
    """Combine several options into one decorator, in this order."""
    return lambda command: reduce(lambda done, option: option(done), reversed(given), command)


class Commands(AppGroup):
    """A group of commands in the app's context, each with --json. A failure is an exit code and one
    line, never a traceback."""

    def command(  # type: ignore[override]
        self, *args: Any, **options: Any
    ) -> Callable[[Callable[..., Any]], click.Command]:
        """Declare a command of the group."""
        declare = super().command(*args, **options)
        return lambda function: declare(json_option(function))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with reported(), hushed():
            return super().invoke(ctx)


class Process(click.Command):
    """A command that runs until it is asked to stop, and logs like any process."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with reported():
            return super().invoke(ctx)


class DidNotHold(click.ClickException):
    """What was asked for failed. Prints one line on stderr."""

    exit_code = DID_NOT_HOLD

    def __init__(self, line: str) -> None:
        super().__init__(" ".join(printable(line).split()))


class WrongUse(DidNotHold):
    """What was asked for makes no sense. Prints one line on stderr, and nothing was changed."""

    exit_code = WRONG_USE


def parts() -> Runtime:
    """The parts of the command's app."""
    runtime: Runtime = current_app.extensions[EXTENSION]
    return runtime


def answered(value: Any) -> bool:
    """Print `value` as JSON with --json. Otherwise the caller must print it."""
    asked = bool(click.get_current_context().meta.get(_AS_JSON))
    if asked:
        click.echo(json.dumps(value, indent=2, default=in_json))
    return asked


def say(text: str) -> None:
    """Print a line for people, apart from what is piped on."""
    click.echo(printable(text), err=True)


def listing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], **how: bool) -> None:
    """Print rows: as JSON, or these columns as a table."""
    if not answered(rows):
        table(columns, ([row.get(name) for name in columns] for row in rows), **how)


def record(value: Mapping[str, Any]) -> None:
    """Print one thing: as JSON, or a name and a value a line."""
    if not answered(value):
        details(value)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, one_line: bool = False
) -> None:
    """Print rows as wide as the terminal. Long values wrap, or are cut with `one_line`."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        # A row's identifier stays in one piece, so that it can be copied.
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
    """A console on stdout or stderr, as wide as the terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def progress(what: str, *more: ProgressColumn, transient: bool = False) -> Progress:
    """A progress bar on a terminal, and nothing in a pipe."""
    stderr = console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *more)
    hidden = not stderr.is_terminal
    return Progress(*columns, console=stderr, transient=transient, disable=hidden)


def printable(text: str) -> str:
    """`text` without terminal control sequences, since errors and keys come from anywhere."""
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
    """Turn the product's own errors, and those of a missing database, into one line."""
    try:
        yield
    except BackendUnavailable as failure:
        line = f"{failure}; `flask switchyard cutover verify` checks every part"
        raise DidNotHold(line) from failure
    except SwitchyardError as failure:
        wrong_use = isinstance(failure, BadInput | SettingsError)
        raise (WrongUse if wrong_use else DidNotHold)(str(failure)) from failure
    except UnicodeEncodeError as failure:
        line = f"it cannot be written as {failure.encoding}: check LANG, and that it is UTF-8"
        raise WrongUse(line) from failure
    except DBAPIError as failure:
        raise DidNotHold(database_line(failure)) from failure
    except NoConnection as failure:
        line = "all connections to the database are in use: see DATABASE_POOL_SIZE"
        raise DidNotHold(line) from failure


def database_line(failure: DBAPIError) -> str:
    """What is wrong with the database and what to do, without a password."""
    why = reason(failure)
    # The app's context is gone once a command has failed.
    info = click.get_current_context().ensure_object(ScriptInfo)
    runtime: Runtime = info.load_app().extensions[EXTENSION]
    # psycopg's name for it, and psycopg2's.
    state = getattr(failure.orig, "sqlstate", None) or getattr(failure.orig, "pgcode", None)
    if state in _OLD_TABLES or "no such table" in why or "no such column" in why:
        return f"the database lacks this version's tables ({why}): {runtime.upgrade}"
    return (
        f"the database cannot be used ({why}): check that DATABASE_URL is right and it is up;"
        f" if it is new, {runtime.upgrade}"
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Log only errors unless LOG_LEVEL asks for more, since a command prints what it did."""
    root = logging.getLogger()
    level = root.level
    if not os.environ.get("LOG_LEVEL"):
        root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)

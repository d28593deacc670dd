"""The commands of `flask --app app`, for operators, scripts and process managers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import Flask
from flask.cli import AppGroup, ScriptInfo

from app.switchyard.commands import later
from app.switchyard.errors import SettingsError

_COMMANDS = {
    "jobs": "jobs:group",
    "runs": "runs:group",
    "cutover": "cutover:group",
    "qstash": "qstash:group",
    "db": "database:group",
    "adopt": "adoption:adoption",
    "worker": "processes:worker",
    "relay": "processes:relay",
    "clock": "processes:clock",
}


def register_commands(app: Flask) -> None:
    """Add the layer's commands under `flask switchyard`."""
    group = AppGroup("switchyard", help="Background jobs on RQ, Inngest and QStash.")
    later.add(group, __name__, _COMMANDS)
    app.cli.add_command(group)


@contextmanager
def settings_checked() -> Iterator[None]:
    """Wrap the creation of the app: a bad setting ends a flask command with one line and exit 2.

    Outside a command the SettingsError passes through. It becomes SystemExit because flask shows a
    traceback for any other error of a factory, or continues without the app.
    """
    try:
        yield
    except SettingsError as failure:
        context = click.get_current_context(silent=True)
        if context is None or context.find_object(ScriptInfo) is None:
            raise
        from app.switchyard.commands.output import WRONG_USE, WrongUse  # it loads rich

        WrongUse(str(failure)).show()
        raise SystemExit(WRONG_USE) from failure

"""Commands whose modules are loaded on use, since a process uses one of them, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import click


class Later(click.Command):
    """Stands for a command or a group. `where` names it like an entry point:
    `package.module:name`."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__(name)
        self._where = where

    def load(self) -> click.Command:
        """The command itself."""
        command = resolve_name(self._where)
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The command's own, with which click parses, runs and completes."""
        return self.load().make_context(info_name, args, parent, **extra)

    def get_short_help_str(self, limit: int = 45) -> str:
        """See click."""
        return self.load().get_short_help_str(limit)


def add(group: click.Group, package: str, commands: Mapping[str, str]) -> None:
    """Add a package's commands to a group: for each name, its module and its name there."""
    for name, where in commands.items():
        group.add_command(Later(name, f"{package}.{where}"))

"""The commands of `flask --app app`: the way in for operators, scripts and process managers."""

from __future__ import annotations

from flask import Flask
from flask.cli import AppGroup

from app.switchyard.commands import (
    adoption,
    cutover,
    database,
    draining,
    inventory,
    jobs,
    processes,
    qstash,
    run_here,
    runs,
    verify,
)

__all__ = ["draining", "inventory", "register_commands", "run_here", "verify"]  # in others' groups


def register_commands(app: Flask) -> None:
    """Add the layer's commands, all below `flask switchyard`."""
    group = AppGroup("switchyard", help="Background jobs on RQ, Inngest and QStash.")
    for own in (jobs.group, runs.group, cutover.group, qstash.group, database.group):
        group.add_command(own)
    group.add_command(adoption.adoption)
    group.add_command(processes.worker)
    group.add_command(processes.relay)
    group.add_command(processes.clock)
    app.cli.add_command(group)

"""The commands of `flask --app app`: the way in for operators, scripts and process managers."""

from __future__ import annotations

from flask import Flask

from app.platform.earnings import commands as earnings
from app.platform.mail import commands as mails
from app.platform.payouts import commands as payouts
from app.platform.statements import commands as statements
from app.switchyard.commands import (
    cost,
    cutover,
    database,
    draining,
    inventory,
    jobs,
    parity,
    pins,
    processes,
    qstash,
    run_here,
    runs,
    verify,
)


def register_commands(app: Flask) -> None:
    """Hang every command on the app."""
    jobs.group.add_command(run_here.run_job)
    cutover.group.add_command(parity.parity)
    for command in (pins.pin, pins.unpin, pins.pins, draining.drain, draining.rollback):
        cutover.group.add_command(command)
    for asked in (inventory.inventory, verify.verify, cost.cost):
        cutover.group.add_command(asked)
    for command in (jobs.group, runs.group, cutover.group, payouts.group, database.group):
        app.cli.add_command(command)
    app.cli.add_command(earnings.group)
    app.cli.add_command(statements.group)
    app.cli.add_command(mails.group)
    app.cli.add_command(qstash.group)
    app.cli.add_command(processes.relay)
    app.cli.add_command(processes.clock)

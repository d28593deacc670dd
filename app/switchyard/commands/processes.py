"""`relay` and `clock`: the processes beside web and worker, ended by SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import literal, select

from app.switchyard.commands.output import DID_NOT_HOLD, Process, json_option, parts, record, say
from app.switchyard.cutover import clock as ticks
from app.switchyard.cutover import guardrail
from app.switchyard.runs import relay as relaying
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime

log = logging.getLogger(__name__)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one does what it always does."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(_number: int, _frame: FrameType | None) -> None:
        restore()
        # In a thread: the handler runs in the middle of anything, also of a wait for this very
        # event, whose lock is then held by the thread the handler runs in.
        threading.Thread(target=stop.set, daemon=True).start()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


def _migrated(made: Runtime) -> None:
    """Raises the database's error at the start, rather than once a second from then on."""
    with made.db.autocommit() as connection:
        connection.execute(select(literal(1)).select_from(RunRow).limit(1))


@click.command("relay", cls=Process)
@click.option("--once", is_flag=True, help="Look once and end; exit 1 if a backend was away.")
@json_option
@with_appcontext
def relay(once: bool, as_json: bool) -> None:
    """Send backends what they never got or have lost, and take over what was left."""
    made = parts()
    _migrated(made)
    if once:
        swept = relaying.sweep(made.store)
        record(asdict(swept), as_json)
        if swept.unreachable:
            say(f"{swept.unreachable} runs lie with a backend that is away")
            raise click.exceptions.Exit(DID_NOT_HOLD)
        return
    context = current_app.app_context
    with stop_on_signals() as stop:
        log.info("relay started")
        watch = threading.Thread(
            target=guardrail.run_forever, args=(made, stop, context), daemon=True
        )
        watch.start()
        relaying.run_forever(made.store, stop, context=context)
        watch.join()
    log.info("relay stopped")


@click.command("clock", cls=Process)
@with_appcontext
def clock() -> None:
    """Propose the runs of every schedule as their times come."""
    made = parts()
    _migrated(made)
    with stop_on_signals() as stop:
        log.info("clock started")
        ticks.run_forever(made, stop, current_app.app_context)
    log.info("clock stopped")

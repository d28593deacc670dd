"""`worker`, `relay` and `clock`: the processes beside web. SIGTERM or Ctrl-C ends them."""

from __future__ import annotations

import threading
from dataclasses import asdict
from functools import partial

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import literal, select

from app.switchyard.commands.output import DID_NOT_HOLD, Process, json_option, parts, record, say
from app.switchyard.commands.signals import stop_on_signals
from app.switchyard.cutover import clock as ticks
from app.switchyard.cutover import guardrail
from app.switchyard.logs import logger_of
from app.switchyard.operations.processes import Heartbeat
from app.switchyard.runs import relay as relaying
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from app.switchyard.words import plural

log = logger_of(__name__)


def _require_tables(runtime: Runtime) -> None:
    """Raise the database's error at the start, rather than once a second later."""
    runtime.db.rows(select(literal(1)).select_from(RunRow).limit(1))


@click.command("worker", cls=Process, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[QUEUES]... [RQ OPTIONS]...")
@with_appcontext
def worker(options: tuple[str, ...]) -> None:
    """Serve the declared jobs' queues, or QUEUES, like `rq worker`.

    Options are passed on to `rq worker`: --burst, --name, ...
    """
    from queues.command import work  # RQ's own commands, which nobody else here needs

    work(options)


@click.command("relay", cls=Process)
@click.option(
    "--once", is_flag=True, help="Look once and end. Exits with 1 if a backend did not answer."
)
@json_option
@with_appcontext
def relay(once: bool) -> None:
    """Resend lost runs, and take over abandoned ones.

    A run is lost if its backend never got it or no longer has it. It is abandoned if the process
    that was performing it is gone.
    """
    runtime = parts()
    _require_tables(runtime)
    if once:
        swept = relaying.sweep(runtime.store)
        record(asdict(swept))
        if swept.unreachable:
            runs = plural(swept.unreachable, "run")
            say(f"could not look at {runs}: the backend does not answer")
            raise click.exceptions.Exit(DID_NOT_HOLD)
        return
    context = current_app.app_context
    with stop_on_signals() as stop:
        log.info("relay started")
        look = partial(guardrail.look, runtime)
        looking = ("guardrail", look, guardrail.INTERVAL_SECONDS, stop, context)
        watch = threading.Thread(target=relaying.repeat, args=looking, daemon=True)
        watch.start()
        with Heartbeat(runtime.db, "relay") as heartbeat:
            sent = taken_over = 0

            def looked(swept: relaying.Swept) -> None:
                nonlocal sent, taken_over
                sent, taken_over = sent + swept.sent, taken_over + swept.taken_over
                heartbeat.beat(f"sent {plural(sent, 'run')} and took over {taken_over} so far")

            relaying.run_forever(runtime.store, stop, context=context, looked=looked)
        watch.join()
    log.info("relay stopped")


@click.command("clock", cls=Process)
@with_appcontext
def clock() -> None:
    """Start the runs of every schedule when they are due."""
    runtime = parts()
    _require_tables(runtime)
    ticker = ticks.Ticker(runtime)
    with stop_on_signals() as stop:
        log.info("clock started")
        context = current_app.app_context
        with Heartbeat(runtime.db, "clock") as heartbeat:

            def look() -> None:
                ticker.round()
                heartbeat.beat(ticker.doing)

            relaying.repeat("clock", look, ticks.INTERVAL_SECONDS, stop, context)
    log.info("clock stopped")

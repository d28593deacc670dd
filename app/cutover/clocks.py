"""Clocks only propose: a tick is a run keyed by job and occurrence, so two clocks are harmless."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from app.clock import iso
from app.dispatch import dispatch
from app.errors import BadInput, SwitchyardError
from app.jobs.catalogue import JobSpec
from app.runs.run import Run
from app.runtime import Runtime

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
LOOK_BACK = timedelta(minutes=5)
"""How far back a clock that just started proposes: what a restart may have missed."""


def tick(spec: JobSpec, occurrence: datetime) -> Run:
    """Propose one scheduled occurrence, from whichever clock; the same one twice is one run."""
    payload = None if spec.tick is None else spec.tick(occurrence)
    key = None if spec.key is not None else f"tick:{iso(occurrence)}"
    return dispatch(spec.name, payload, key=key)


def run_forever(made: Runtime, stop: threading.Event) -> None:
    """Propose every occurrence as its time comes, until `stop` is set."""
    seen = made.store.clock() - LOOK_BACK
    while not stop.is_set():
        now = made.store.clock()
        if propose(made, seen, now):
            seen = max(seen, now)
        stop.wait(INTERVAL_SECONDS)


def propose(made: Runtime, after: datetime, until: datetime) -> bool:
    """Propose what was scheduled in (after, until]; False where some of it must be tried again."""
    complete = True
    for spec in made.catalogue.values():
        for occurrence in spec.occurrences(after, until):
            try:
                run = tick(spec, occurrence)
            except BadInput as misfit:
                # Trying again cannot help, and must not hold up the ticks of other jobs.
                log.error("tick refused: %s", misfit, extra={"job": spec.name})
                continue
            except (SwitchyardError, SQLAlchemyError) as failure:
                complete = False
                log.warning(
                    "tick not recorded yet",
                    extra={"job": spec.name, "reason": f"{type(failure).__name__}: {failure}"},
                )
                continue
            if run.created:
                log.info("tick", extra={"job": spec.name, "run": run.id, "at": iso(occurrence)})
    return complete

"""`python -m app.local.demo`: see the package. It exits with 0 only if everything held."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import requests
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from sqlalchemy import case, func, select

from app.local.demo.audit import Audit, audit, due
from app.local.demo.show import bars, move, table
from app.local.demo.unrest import Seen, Unrest
from app.local.environment import CannotRun, clean, prepare
from app.local.loopback import call, free_port
from app.local.run import alone
from app.local.seed import fill_fresh
from app.local.stack import Stack
from app.local.standin import stop_signal
from app.platform.config import ROOT, load
from app.platform.payouts.models import Payout, PayoutStatus
from app.platform.wiring import make_runtime
from app.switchyard.clock import utcnow
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow as R

PAYABLE = 1000
OTHERS = 160
"""Creators that must not be paid: account disabled, or below the minimum."""
WORKERS = 3
PATIENCE_SECONDS = 170.0
LOOK_SECONDS = 0.05
LEAST_FLIPS = 20
LEAST_PER_BACKEND = 100
SHOWN_DIFFERENCES = 50
SOON = {"LEASE_SECONDS": "3", "CHECK_SECONDS": "1.5"}
"""Short, so that the demo does not wait long for the processes it kills."""


def demo(folder: Path, report: Path, console: Console, stopped: threading.Event) -> bool:
    """Run the whole demo. Whether it held. Raises CannotRun or requests.RequestException."""
    began = time.monotonic()
    local = prepare(folder, free_port(), SOON | clean(os.environ))
    console.print("starting Valkey, Stripe's and Inngest's stand-ins, web, workers, relay, clock")
    # Filled before anything runs, since a clock's tick must not find half a platform.
    people = {"creators": PAYABLE + OTHERS, "payable": PAYABLE}
    filled = partial(fill_fresh, local, **people, now=utcnow())
    with Stack(local, workers=WORKERS, before_web=filled) as stack:
        runtime = make_runtime(load(local.process_env))
        try:
            expected = due(runtime.db, runtime.store.clock())
            console.print(f"{len(expected)} creators are to be paid, {OTHERS} must not be")
            # As in the migration guide.
            today = runtime.store.clock().date()
            data = {"payoutDate": today.isoformat(), "dayOfMonth": today.day}
            event = {"name": "payout.scheduled", "data": data}
            parent = call("POST", f"{local.url}/api/inngest/trigger", event)["runId"]
            unrest = Unrest(runtime.store, stack, parent, len(expected), console.print)
            with bars(console, len(expected)) as shown:
                _watch(runtime.db, stack, unrest, shown, stopped)
            found = audit(runtime.db, runtime.engine.gateways.stripe, expected)
        finally:
            runtime.db.dispose()
    seconds = time.monotonic() - began
    held = _held(found, unrest, len(expected))
    outcome = {"creators": len(expected), **asdict(found), "flips": unrest.flips}
    outcome |= {"workers_killed": unrest.workers_killed, "seconds": round(seconds, 1)}
    del outcome["differences"]
    report.write_text(json.dumps(outcome, indent=1) + "\n")
    console.print(table(found, unrest, seconds, held))
    for line in found.differences[:SHOWN_DIFFERENCES]:
        console.print(f"[red]differs[/]: {escape(line)}")
    return held


def _watch(
    db: Database, stack: Stack, unrest: Unrest, shown: Progress, stopped: threading.Event
) -> None:
    """Make trouble until the pay day has ended. Raises CannotRun."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (seen := _look(db)).open:
        if stopped.is_set() or time.monotonic() > end:
            why = "was interrupted" if stopped.is_set() else "did not end"
            raise CannotRun(f"the pay day {why}; still open are\n{_open(db)}")
        stack.tend()
        unrest.go_on(seen)
        move(shown, seen, unrest)
        time.sleep(LOOK_SECONDS)
    move(shown, seen, unrest)


def _look(db: Database) -> Seen:
    counts = select(
        func.count(Payout.transfer_id),
        func.count(Payout.bank_payout_id),
        func.count(case((Payout.status == PayoutStatus.PAID, 1))),
        func.count(case((Payout.status == PayoutStatus.IN_TRANSIT, 1))),
    )
    still_open = select(func.count()).select_from(R).where(R.check_at.is_not(None))
    with db.autocommit() as connection:
        sent, banked, paid, in_transit = connection.execute(counts).one()
        return Seen(sent, banked, paid, in_transit + (connection.scalar(still_open) or 0))


def _open(db: Database) -> str:
    """The open runs, by job, backend and status."""
    by = (R.job, R.backend, R.status)
    chosen = select(*by, func.count(), func.max(R.error)).where(R.check_at.is_not(None))
    with db.autocommit() as connection:
        rows = connection.execute(chosen.group_by(*by).order_by(*by)).all()
    return "\n".join("  {3} x {0} on {1}, {2}: {4}".format(*row) for row in rows)


def _held(found: Audit, unrest: Unrest, creators: int) -> bool:
    return (
        not found.differences
        and found.ledger_balanced
        and found.paid_twice == found.lost == 0
        and creators == found.payouts == found.transfers == PAYABLE
        and min(found.by_backend.values()) >= LEAST_PER_BACKEND
        and unrest.flips >= LEAST_FLIPS
        and unrest.workers_killed >= 1
    )


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "run.lock":
            entry.unlink()


def main() -> int:
    """Run the demo. Returns 0 if it held, and 1 if not."""
    folder, report = ROOT / "var" / "demo", ROOT / "var" / "demo.json"
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    report.unlink(missing_ok=True)  # an earlier demo's report must not be taken for this one's
    held = False
    try:
        with alone(folder), stop_signal() as stopped:
            _empty(folder)
            held = demo(folder, report, console, stopped)
    except (CannotRun, requests.RequestException) as failure:
        sys.stderr.write(f"switchyard: {failure}\n")
    if not held:
        sys.stderr.write(f"switchyard: what happened is in {folder / 'log'}\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m app.local.demo`: see the package; ends 0 only if it all held."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import requests
from rich.console import Console
from rich.markup import escape
from sqlalchemy import case, func, select

from app.local.demo.audit import Audit, audit, due
from app.local.demo.show import Show, table
from app.local.demo.unrest import Seen, Unrest
from app.local.environment import Local, clean, prepare
from app.local.lifetime import stop_signal
from app.local.loopback import free_port
from app.local.run import CannotRun, alone
from app.local.seeded import fill, opened
from app.local.stack import Stack, StackError
from app.platform.config import ROOT, load
from app.platform.payouts.models import Payout, PayoutStatus
from app.platform.wiring import make_runtime
from app.switchyard.clock import utcnow
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime

PAYABLE = 1000
OTHERS = 160
"""Creators that must not be paid: account disabled, or below the minimum."""
WORKERS = 3
PATIENCE_SECONDS = 170.0
LOOK_SECONDS = 0.05
TRIGGER_SECONDS = 30.0
LEAST_FLIPS = 20
LEAST_PER_BACKEND = 100
SHOWN_DIFFERENCES = 50
SOON = {"LEASE_SECONDS": "3", "CHECK_SECONDS": "1.5"}
"""So that the demo does not wait long for what it has killed."""


class Unfinished(Exception):
    """The pay day did not come to its end; the message says what is still open."""


def demo(folder: Path, report: Path, console: Console, told: threading.Event) -> bool:
    """Do it all; whether it held. Raises Unfinished or StackError."""
    began = time.monotonic()
    show = Show(console)
    local = prepare(folder, free_port(), SOON | clean(os.environ))
    show.say("starting Valkey, Stripe's and Inngest's stand-ins, web, three workers, relay, clock")
    # Filled before anything works: a clock's tick must not find half a platform.
    with Stack(local, workers=WORKERS, before_web=lambda: _fill(local)) as stack:
        made = make_runtime(load(local.process_env))
        try:
            expected = due(made.db, made.store.clock())
            show.say(f"{len(expected)} creators are to be paid, {OTHERS} must not be")
            parent = _trigger(made, local)
            unrest = Unrest(made.store, stack, parent, len(expected), show.say)
            with show.bars(len(expected)) as bars:
                end = time.monotonic() + PATIENCE_SECONDS
                while (seen := _look(made.db)).open:
                    if told.is_set() or time.monotonic() > end:
                        why = "was interrupted" if told.is_set() else "did not end"
                        raise Unfinished(f"the pay day {why}; still open are\n{_open(made.db)}")
                    stack.tend()
                    unrest.go_on(seen)
                    bars.move(seen, unrest)
                    time.sleep(LOOK_SECONDS)
                bars.move(seen, unrest)
            found = audit(made.db, made.engine.gateways.stripe, expected)
        finally:
            made.db.dispose()
    seconds = time.monotonic() - began
    held = _held(found, unrest, len(expected))
    _write(report, found, unrest, len(expected), seconds)
    console.print(table(found, unrest, seconds, held))
    for line in found.differences[:SHOWN_DIFFERENCES]:
        console.print(f"[red]differs[/]: {escape(line)}")
    if len(found.differences) > SHOWN_DIFFERENCES:
        console.print(f"and {len(found.differences) - SHOWN_DIFFERENCES} more")
    return held


def _fill(local: Local) -> None:
    """A thousand creators with money to come, and some with none."""
    env = local.process_env
    with opened(load(env).sqlalchemy_url) as db:
        stripe_url = env["STRIPE_API_BASE"]
        fill(db, stripe_url, creators=PAYABLE + OTHERS, payable=PAYABLE, now=utcnow())


def _trigger(made: Runtime, local: Local) -> str:
    """Start today's pay day over HTTP, as the guide does; its run's id."""
    today = made.store.clock().date()
    body = {
        "name": "payout.scheduled",
        "data": {"payoutDate": today.isoformat(), "dayOfMonth": today.day},
    }
    with requests.Session() as session:
        session.trust_env = False
        url = f"{local.url}/api/inngest/trigger"
        answer = session.post(url, json=body, timeout=TRIGGER_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["runId"])


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
    """What is open, by job, backend and status."""
    chosen = (
        select(R.job, R.backend, R.status, func.count(), func.min(R.due_at), func.max(R.error))
        .where(R.check_at.is_not(None))
        .group_by(R.job, R.backend, R.status)
        .order_by(R.job, R.backend, R.status)
    )
    with db.autocommit() as connection:
        rows = connection.execute(chosen).all()
    lines = [
        f"  {count} x {job} on {backend}, {status}, due {due_at:%H:%M:%S} UTC or later: {error}"
        for job, backend, status, count, due_at, error in rows
    ]
    return "\n".join(lines)


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


def _write(report: Path, found: Audit, unrest: Unrest, creators: int, seconds: float) -> None:
    told = {
        "creators": creators,
        "payouts": found.payouts,
        "transfers": found.transfers,
        "paid_twice": found.paid_twice,
        "lost": found.lost,
        "flips": unrest.flips,
        "workers_killed": unrest.workers_killed,
        "by_backend": found.by_backend,
        "handed_over": found.handed_over,
        "ledger_balanced": found.ledger_balanced,
        "seconds": round(seconds, 1),
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(told, indent=1) + "\n")


def _emptied(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == "run.lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def main() -> int:
    """Run the demo; 0 if it held, 1 if not, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.demo", description=__doc__)
    parser.parse_args()
    folder, report = ROOT / "var" / "demo", ROOT / "var" / "demo.json"
    console = Console(highlight=False, emoji=False)
    report.unlink(missing_ok=True)  # a report of an earlier demo must not pass for this one's
    try:
        with alone(folder), stop_signal() as told:
            _emptied(folder)
            held = demo(folder, report, console, told)
    except (CannotRun, StackError, Unfinished, requests.RequestException) as failure:
        sys.stderr.write(f"switchyard: {failure}\n")
        held = False
    if not held:
        sys.stderr.write(f"switchyard: what happened is in {folder / 'log'}\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

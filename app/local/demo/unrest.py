"""What the demo does to a pay day in progress: flips, hand-overs and kills."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import ColumnElement, select

from app.local.stack import Stack
from app.switchyard.audit import By
from app.switchyard.cutover.stages import set_stage
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.store import RunStore
from app.switchyard.words import plural
from flags import Stage

JOBS = ("process-payouts", "handle-stripe-event")
SIDES = {"rq": Stage.LEGACY, "inngest": Stage.LIVE}
FLIP_SECONDS = 0.4
SHARE = 40
"""The most runs that move with a flip, besides the pay day's."""
WORKER_KILLS, STANDIN_KILL = (0.15, 0.5), 0.3
"""When each happens, as a share of the whole pay day."""


class Seen(NamedTuple):
    """How far the pay day is: its payouts by state, and how much is still open."""

    sent: int
    banked: int
    """Sent on to the bank."""
    paid: int
    """At the bank."""
    open: int
    """Open runs and payouts."""


class Unrest:
    """Flips and kills that follow the progress, so that they happen during it on any machine."""

    def __init__(
        self, store: RunStore, stack: Stack, parent: str, total: int, say: Callable[[str], None]
    ) -> None:
        self.flips = self.moves = self.workers_killed = self.standin_killed = 0
        self._store = store
        self._stack = stack
        self._parent = parent
        self._total = total
        self._say = say
        self._side = "rq"
        self._rng = random.Random(2025)
        self._next = time.monotonic()

    def go_on(self, seen: Seen) -> None:
        """Do what is due at this point."""
        way = (seen.sent + seen.banked + seen.paid) / (3 * self._total)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + FLIP_SECONDS
            self.flip()
        if self.workers_killed < len(WORKER_KILLS) and way >= WORKER_KILLS[self.workers_killed]:
            self.kill_worker()
        if self.standin_killed == 0 and way >= STANDIN_KILL:
            self.kill_standin()

    def flip(self) -> None:
        """Flip both jobs, and move the pay day and some of the waiting runs along."""
        self._side = "inngest" if self._side == "rq" else "rq"
        self.flips += 1
        db, stage, now = self._store.db, SIDES[self._side], self._store.clock()
        for job in JOBS:
            set_stage(db, job, stage, None, By("demo", f"flip {self.flips}"), now)
        waiting = R.status.in_([Status.PENDING, Status.WAITING])
        there = self._ids(R.check_at.is_not(None), waiting, R.backend != self._side)
        chosen = self._rng.sample(there, min(len(there), SHARE))
        handed = hand_over(self._store, [self._parent, *chosen], self._side)
        self.moves += handed.moved + handed.asked

    def kill_worker(self) -> None:
        """Send SIGKILL to the RQ worker that is paying right now. Without one, try again later."""
        for name, process in self._stack.processes.items():
            if not name.startswith("worker-") or process.poll() is not None:
                continue
            os.kill(process.pid, signal.SIGSTOP)  # so that it is still paying when it is killed
            held = (R.status == Status.RUNNING, R.holder.like(f"rq-{process.pid}-%"))
            if self._ids(R.id == self._parent, *held):
                process.kill()
                self.workers_killed += 1
                self._say(f"{name} killed with -9, a page of payouts in its hands")
                return
            os.kill(process.pid, signal.SIGCONT)

    def kill_standin(self) -> None:
        """Send SIGKILL to the Inngest stand-in while it has runs in flight, which die with it."""
        if lost := len(self._ids(R.check_at.is_not(None), R.holder.like("inngest-%"))):
            self._stack.processes["inngest"].kill()
            self.standin_killed += 1
            self._say(f"Inngest killed with -9, with its queue and {plural(lost, 'run')} in hand")

    def _ids(self, *which: ColumnElement[bool]) -> list[str]:
        """The runs that meet these conditions."""
        return [row.id for row in self._store.db.rows(select(R.id).where(*which).order_by(R.id))]
